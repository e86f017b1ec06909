"""The vLLM server of our own: it comes back when it is killed, and leaves no process behind, however its user ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from inference.vlm import vllm_guard
from inference.vlm.vllm_server import VllmServer, VllmServerConfig
from inference.vlm.vlm import VlmConfig
from schemas.errors import WorkFailedError
from tests.support.processes import processes_with, wait_until
from tests.support.vllm_of_micro import model_folder, server_of

ROOT = Path(__file__).parents[3]


def sleeper(mark):
    """A command whose group has a leader and a child; both name the mark."""
    child = f"import time; time.sleep(600)  # {mark}"
    leader = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}]).wait()  # {mark}"
    return [sys.executable, vllm_guard.__file__, sys.executable, "-c", leader]


def test_the_guard_ends_the_whole_group_when_its_parent_s_pipe_closes():
    mark = f"guarded-{os.getpid()}-a"
    guard = subprocess.Popen(sleeper(mark), stdin=subprocess.PIPE)
    wait_until(lambda: len(processes_with(mark)) == 4)
    guard.stdin.close()
    wait_until(lambda: not processes_with(mark))
    guard.wait(60)


def test_the_guard_ends_the_rest_of_the_group_when_its_leader_is_killed():
    mark = f"guarded-{os.getpid()}-b"
    guard = subprocess.Popen(sleeper(mark), stdin=subprocess.PIPE)
    wait_until(lambda: len(processes_with(mark)) == 4)
    leader = min(pid for pid, line in processes_with(mark).items() if "vllm_guard" not in line)
    os.kill(leader, signal.SIGKILL)
    wait_until(lambda: not processes_with(mark))
    guard.wait(60)


def test_a_parent_that_is_killed_takes_the_group_along():
    mark = f"guarded-{os.getpid()}-c"
    code = f"import subprocess, time\nsubprocess.Popen({sleeper(mark)!r}, stdin=subprocess.PIPE)\ntime.sleep(600)"
    parent = subprocess.Popen([sys.executable, "-c", code])
    wait_until(lambda: len(processes_with(mark)) == 5)  # the parent's own command line has it too
    parent.kill()
    parent.wait()
    wait_until(lambda: not processes_with(mark))


def test_the_guard_is_no_child_that_its_parent_s_killer_finds():
    """Ray ends an actor with all its children, by SIGKILL."""
    mark = f"guarded-{os.getpid()}-d"
    child = subprocess.Popen(sleeper(mark), stdin=subprocess.PIPE)
    wait_until(lambda: len(processes_with(mark)) == 4)
    child.kill()
    child.wait()
    assert len(processes_with(mark)) == 3
    child.stdin.close()  # as when the parent dies, too
    wait_until(lambda: not processes_with(mark))


def test_the_guard_passes_the_exit_code_on():
    code = [sys.executable, vllm_guard.__file__, sys.executable, "-c", "raise SystemExit(7)"]
    assert subprocess.Popen(code, stdin=subprocess.PIPE).wait(60) == 7


def test_a_server_that_does_not_start_says_why(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "vllm.py").write_text("raise RuntimeError('no such card')")
    server = VllmServer(VllmServerConfig(str(tmp_path), "m", start_timeout_s=120))
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
    server.ensure()
    mark = f"--port {server.port}"
    for name in (mark, "EngineCore"):
        victims = processes_with(name)
        victims = {p: line for p, line in victims.items() if "vllm_guard" not in line and p != os.getpid()}
        assert victims, f"no process named {name}"
        os.kill(max(victims), signal.SIGKILL)
        time.sleep(1)
        server.ensure()
        assert server._answers()
    server.close()
    wait_until(lambda: not processes_with(mark) and not processes_with("EngineCore"))

    code = (
        "import os, signal\nfrom pathlib import Path\nfrom tests.support.vllm_of_micro import server_of\n"
        f"server = server_of(Path({str(folder)!r}))\nserver.ensure()\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=480).returncode == -signal.SIGKILL
    wait_until(lambda: not processes_with("vllm.entrypoints") and not processes_with("EngineCore"))
