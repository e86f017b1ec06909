"""The vLLM server of our own: it comes back when it is killed, and leaves no process behind, however its user ends."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from inference.vlm import vllm_guard
from inference.vlm.vllm_server import VllmServer, VllmServerConfig
from inference.vlm.vlm import VlmConfig
from schemas.errors import WorkFailedError
from tests.support.processes import processes_with, wait_until
from tests.support.vllm_of_micro import model_folder, server_of

ROOT = Path(__file__).parents[3]


def sleeper(folder, mark):
    """A guarded command whose group has a leader and a child; both name the mark."""
    child = f"import time; time.sleep(600)  # {mark}"
    leader = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}]).wait()  # {mark}"
    return [sys.executable, vllm_guard.__file__, str(folder), "1", sys.executable, "-c", leader]


def user(folder):
    """Holds the lock until it is closed."""
    file = open(folder / "users", "a")  # noqa: SIM115
    fcntl.flock(file, fcntl.LOCK_SH)
    return file


def guards_of(mark):
    return {pid: line for pid, line in processes_with(mark).items() if "vllm_guard" in line}


def test_the_guard_ends_the_whole_group_when_its_last_user_lets_go(tmp_path):
    mark = f"guarded-{os.getpid()}-a"
    first, second = user(tmp_path), user(tmp_path)
    guard = subprocess.Popen(sleeper(tmp_path, mark))
    wait_until(lambda: len(processes_with(mark)) == 4)
    first.close()
    time.sleep(1)
    assert len(processes_with(mark)) == 4
    second.close()
    wait_until(lambda: not processes_with(mark))
    guard.wait(60)
    assert vllm_guard.read_state(tmp_path) == {}


def test_the_guard_ends_the_rest_of_the_group_when_its_leader_is_killed(tmp_path):
    mark = f"guarded-{os.getpid()}-b"
    with user(tmp_path):
        guard = subprocess.Popen(sleeper(tmp_path, mark))
        wait_until(lambda: len(processes_with(mark)) == 4)
        os.kill(min(processes_with(mark).keys() - guards_of(mark).keys()), signal.SIGKILL)
        wait_until(lambda: not processes_with(mark))
        guard.wait(60)


def test_a_user_that_is_killed_takes_the_group_along_and_who_started_it_does_not(tmp_path):
    mark = f"guarded-{os.getpid()}-c"
    code = (
        "import fcntl, subprocess, time\nfile = open({users!r}, 'a')\nfcntl.flock(file, fcntl.LOCK_SH)\n"
        f"subprocess.Popen({sleeper(tmp_path, mark)!r})\ntime.sleep(600)"
    ).format(users=str(tmp_path / "users"))
    starter = subprocess.Popen([sys.executable, "-c", code])
    wait_until(lambda: len(processes_with(mark)) == 5)  # the starter's own command line has it too
    other = user(tmp_path)
    starter.kill()
    starter.wait()
    time.sleep(1)
    assert len(processes_with(mark)) == 4
    other.close()
    wait_until(lambda: not processes_with(mark))


def test_the_guard_is_no_child_that_its_parent_s_killer_finds(tmp_path):
    """Ray ends an actor with all its children, by SIGKILL."""
    mark = f"guarded-{os.getpid()}-d"
    with user(tmp_path):
        child = subprocess.Popen(sleeper(tmp_path, mark))
        wait_until(lambda: len(processes_with(mark)) == 4)
        child.kill()
        child.wait()
        assert len(processes_with(mark)) == 3
    wait_until(lambda: not processes_with(mark))


def test_a_guard_that_is_killed_takes_the_group_along(tmp_path):
    mark = f"guarded-{os.getpid()}-e"
    with user(tmp_path):
        child = subprocess.Popen(sleeper(tmp_path, mark))
        wait_until(lambda: len(processes_with(mark)) == 4)
        os.kill(vllm_guard.read_state(tmp_path)["guard"], signal.SIGKILL)
        wait_until(lambda: not processes_with(mark))
        assert child.wait(60) == 143


def test_the_next_guard_ends_what_was_left_when_all_that_watched_were_killed(tmp_path):
    mark = f"guarded-{os.getpid()}-f"
    with user(tmp_path):
        child = subprocess.Popen(sleeper(tmp_path, mark))
        wait_until(lambda: len(processes_with(mark)) == 4)
        child.kill()
        child.wait()
        os.kill(vllm_guard.read_state(tmp_path)["guard"], signal.SIGKILL)
        wait_until(lambda: len(processes_with(mark)) == 2)
        command = [sys.executable, vllm_guard.__file__, str(tmp_path), "2", sys.executable, "-c", "pass"]
        assert subprocess.run(command).returncode == 0
        wait_until(lambda: not processes_with(mark))


def test_a_second_guard_leaves_the_first_one_alone(tmp_path):
    mark = f"guarded-{os.getpid()}-g"
    with user(tmp_path):
        first = subprocess.Popen(sleeper(tmp_path, mark))
        wait_until(lambda: len(processes_with(mark)) == 4)
        state = vllm_guard.read_state(tmp_path)
        command = [sys.executable, vllm_guard.__file__, str(tmp_path), "2", sys.executable, "-c", "pass"]
        assert subprocess.run(command).returncode == 143
        assert vllm_guard.read_state(tmp_path) == state
        assert len(processes_with(mark)) == 4
    first.wait(60)


def test_the_guard_passes_the_exit_code_on(tmp_path):
    command = [sys.executable, vllm_guard.__file__, str(tmp_path), "1", sys.executable, "-c", "raise SystemExit(7)"]
    with user(tmp_path):
        assert subprocess.Popen(command).wait(60) == 7


FAKE_SERVER = """
import http.server, sys
port = int(sys.argv[sys.argv.index("--port") + 1])
class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *said):
        pass
http.server.HTTPServer(("127.0.0.1", port), Healthy).serve_forever()
"""
"""Where `vllm.entrypoints.openai.api_server` would be: what starts, shares and ends it is what is tested."""

A_VLM = '{"model_type": "qwen2_5_vl", "vision_config": {}}'  # all that is looked at before it is served


@pytest.fixture
def at_once(tmp_path, monkeypatch):
    """A configuration whose server is up at once."""
    package = tmp_path / "packages" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    for folder in (package, *package.parents[:2]):
        (folder / "__init__.py").touch()
    (package / "api_server.py").write_text(FAKE_SERVER)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(A_VLM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    return VllmServerConfig(str(tmp_path / "model"), device="cpu", start_timeout_s=60)


def servers_of(config):
    found = processes_with(f"--served-model-name {config.model}")
    return [pid for pid, line in found.items() if "vllm_guard" not in line]


def test_two_processes_share_one_server_and_the_last_one_ends_it(at_once):
    code = (
        "import sys\nfrom inference.vlm.vllm_server import VllmServer, VllmServerConfig\n"
        f"server = VllmServer({at_once!r})\nprint(server.ensure(), flush=True)\nsys.stdin.read()"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{os.environ['PYTHONPATH']}"}
    command = [sys.executable, "-c", code]
    users = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) for _ in range(3)
    ]
    addresses = {process.stdout.readline() for process in users}
    assert len(addresses) == 1
    assert len(servers_of(at_once)) == 1
    users[0].kill()
    users[1].stdin.close()
    assert [process.wait(60) for process in users[:2]] == [-signal.SIGKILL, 0]
    time.sleep(1)
    assert len(servers_of(at_once)) == 1
    users[2].kill()
    wait_until(lambda: not servers_of(at_once))


def test_a_server_that_was_killed_is_started_again_where_it_is_asked_for(at_once):
    server, other = VllmServer(at_once), VllmServer(at_once)
    first = server.ensure()
    assert other.ensure() == first
    os.kill(servers_of(at_once)[0], signal.SIGKILL)
    wait_until(lambda: not server.is_running)
    again = server.ensure()
    assert other.ensure() == again
    assert len(servers_of(at_once)) == 1
    server.close()
    assert other.ensure() == again
    other.close()
    assert not servers_of(at_once)  # it is waited for, since its GPU is wanted next


def test_other_arguments_are_another_server(at_once):
    one, other = VllmServer(at_once), VllmServer(replace(at_once, gpu_memory=0.4))
    assert one.ensure() != other.ensure()
    assert len(servers_of(at_once)) == 2
    one.close()
    other.close()


def test_memory_of_a_gpu_is_passed_on_unless_it_is_said():
    shared = VllmServerConfig("m", gpu_memory=0.4)
    assert shared.all_arguments()[-2:] == ["--gpu-memory-utilization", "0.4"]
    said = replace(shared, arguments=("--gpu-memory-utilization", "0.5"))
    assert said.all_arguments().count("--gpu-memory-utilization") == 1
    assert "--gpu-memory-utilization" not in replace(shared, device="cpu").all_arguments()


def test_a_server_that_does_not_start_says_why(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "vllm.py").write_text("raise RuntimeError('no such card')")
    (tmp_path / "config.json").write_text(A_VLM)
    server = VllmServer(VllmServerConfig(str(tmp_path), start_timeout_s=120))
    with pytest.raises(WorkFailedError, match="does not serve"):
        server.ensure()
    assert not server.is_running


def test_vllm_is_told_how_many_images_a_request_holds(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "vllm.py").write_text("import sys\nraise RuntimeError(' '.join(sys.argv))")
    config = VlmConfig(model=str(model_folder(tmp_path)), max_images=5, device="cpu", dtype="float32")
    with pytest.raises(WorkFailedError, match=r'--limit-mm-per-prompt {"image":5} --max-model-len'):
        config.open()


@pytest.mark.vllm
@pytest.mark.timeout(900)
def test_vllm_comes_back_when_it_or_its_engine_is_killed_and_leaves_nothing(tmp_path):
    folder = model_folder(tmp_path)
    server = server_of(folder)
    address = server.ensure()
    for name in (f"--port {urlsplit(address).port}", "EngineCore"):
        victims = processes_with(name)
        victims = {p: line for p, line in victims.items() if "vllm_guard" not in line and p != os.getpid()}
        assert victims, f"no process named {name}"
        os.kill(max(victims), signal.SIGKILL)
        # A server whose engine died says for a moment that it is well.
        wait_until(lambda address=address: server.ensure() != address, 480)
        address = server.ensure()
    server.close()
    wait_until(lambda: not processes_with("vllm.entrypoints") and not processes_with("EngineCore"))

    code = (
        "import os, signal\nfrom pathlib import Path\nfrom tests.support.vllm_of_micro import server_of\n"
        f"server = server_of(Path({str(folder)!r}))\nserver.ensure()\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=480).returncode == -signal.SIGKILL
    wait_until(lambda: not processes_with("vllm.entrypoints") and not processes_with("EngineCore"))
