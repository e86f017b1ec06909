"""The vLLM server of our own: what starts it, and when; it comes back when it is killed, and leaves no process behind,
however its user ends. A real vLLM: `test_vllm.py`."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from inference.interfaces import ChatRequest
from inference.vlm import vllm_guard, vllm_server
from inference.vlm.journal import StorageJournal
from inference.vlm.vllm_server import VllmServer, VllmServerConfig, started_when_opened, who_wait
from inference.vlm.vlm import VlmConfig
from schemas.errors import InputError, MissingWeightsError, WorkFailedError
from schemas.storage import LocalStorage
from tests.support.fake_vllm import A_VLM, fake_vllm
from tests.support.processes import processes_with, wait_until
from tests.support.vllm_of_micro import model_folder

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


def is_guarded(folder, mark, number=4):
    """Whether so many processes name the mark, and the guard has said what it guards, which it does last."""
    return len(processes_with(mark)) == number and bool(vllm_guard.read_state(folder))


def test_the_guard_ends_the_whole_group_when_its_last_user_lets_go(tmp_path):
    mark = f"guarded-{os.getpid()}-a"
    first, second = user(tmp_path), user(tmp_path)
    guard = subprocess.Popen(sleeper(tmp_path, mark))
    wait_until(lambda: is_guarded(tmp_path, mark))
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
        wait_until(lambda: is_guarded(tmp_path, mark))
        os.kill(vllm_guard.read_state(tmp_path)["group"], signal.SIGKILL)
        wait_until(lambda: not processes_with(mark))
        guard.wait(60)


def test_a_user_that_is_killed_takes_the_group_along_and_who_started_it_does_not(tmp_path):
    mark = f"guarded-{os.getpid()}-c"
    code = (
        "import fcntl, subprocess, time\nfile = open({users!r}, 'a')\nfcntl.flock(file, fcntl.LOCK_SH)\n"
        f"subprocess.Popen({sleeper(tmp_path, mark)!r})\ntime.sleep(600)"
    ).format(users=str(tmp_path / "users"))
    starter = subprocess.Popen([sys.executable, "-c", code])
    wait_until(lambda: is_guarded(tmp_path, mark, 5))  # the starter's own command line has it too
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
        wait_until(lambda: is_guarded(tmp_path, mark))
        child.kill()
        child.wait()
        assert len(processes_with(mark)) == 3
    wait_until(lambda: not processes_with(mark))


def test_a_guard_that_is_killed_takes_the_group_along(tmp_path):
    mark = f"guarded-{os.getpid()}-e"
    with user(tmp_path):
        child = subprocess.Popen(sleeper(tmp_path, mark))
        wait_until(lambda: is_guarded(tmp_path, mark))
        os.kill(vllm_guard.read_state(tmp_path)["guard"], signal.SIGKILL)
        wait_until(lambda: not processes_with(mark))
        assert child.wait(60) == 143


def test_the_next_guard_ends_what_was_left_when_all_that_watched_were_killed(tmp_path):
    mark = f"guarded-{os.getpid()}-f"
    with user(tmp_path):
        child = subprocess.Popen(sleeper(tmp_path, mark))
        wait_until(lambda: is_guarded(tmp_path, mark))
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
        wait_until(lambda: is_guarded(tmp_path, mark))
        state = vllm_guard.read_state(tmp_path)
        command = [sys.executable, vllm_guard.__file__, str(tmp_path), "2", sys.executable, "-c", "pass"]
        assert subprocess.run(command).returncode == 143
        assert vllm_guard.read_state(tmp_path) == state
        assert len(processes_with(mark)) == 4
    first.wait(60)


def test_a_guard_waits_for_whoever_looks_whether_there_is_one_however_long_that_takes(tmp_path):
    command = [sys.executable, vllm_guard.__file__, str(tmp_path), "1", sys.executable, "-c", "raise SystemExit(7)"]
    looking = vllm_guard.try_lock(tmp_path / "guard", fcntl.LOCK_SH)
    assert looking is not None
    with user(tmp_path):
        guard = subprocess.Popen(command)
        time.sleep(2)  # a process that gets no time
        os.close(looking)
        assert guard.wait(60) == 7


def test_the_guard_passes_the_exit_code_on(tmp_path):
    command = [sys.executable, vllm_guard.__file__, str(tmp_path), "1", sys.executable, "-c", "raise SystemExit(7)"]
    with user(tmp_path):
        assert subprocess.Popen(command).wait(60) == 7


@pytest.fixture
def fake(tmp_path, monkeypatch):
    return fake_vllm(tmp_path, monkeypatch)


@pytest.fixture
def at_once(fake):
    """A configuration whose server is up at once."""
    return VllmServerConfig(fake.model, device="cpu", start_timeout_s=200)


def test_two_processes_share_one_server_and_the_last_one_ends_it(fake, at_once):
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
    assert len(fake.servers()) == 1
    users[0].kill()
    users[1].stdin.close()
    assert [process.wait(60) for process in users[:2]] == [-signal.SIGKILL, 0]
    time.sleep(1)
    assert len(fake.servers()) == 1
    users[2].kill()
    wait_until(lambda: not fake.servers())


def test_a_server_that_was_killed_is_started_again_where_it_is_asked_for(fake, at_once):
    server, other = VllmServer(at_once), VllmServer(at_once)
    first = server.ensure()
    assert other.ensure() == first
    os.kill(fake.servers()[0], signal.SIGKILL)
    wait_until(lambda: not server.is_running)
    again = server.ensure()
    assert other.ensure() == again
    assert len(fake.servers()) == 1
    server.close()
    assert other.ensure() == again
    other.close()
    assert not fake.servers()  # it is waited for, since its GPU is wanted next


def test_other_arguments_are_another_server(fake, at_once):
    one, other = VllmServer(at_once), VllmServer(replace(at_once, gpu_memory=0.4))
    assert one.ensure() != other.ensure()
    assert len(fake.servers()) == 2
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
    vlm = config.open()
    with pytest.raises(WorkFailedError, match=r'--limit-mm-per-prompt {"image":5} --max-model-len'):
        vlm.answer([ChatRequest("Who are you?")])


def vlm_config(fake):
    return VlmConfig(model=fake.model, device="cpu", vllm_arguments=())


def test_it_is_started_by_the_first_question_that_the_journal_does_not_answer(fake, tmp_path):
    journal = StorageJournal(LocalStorage(tmp_path / "journal"))
    vlm = vlm_config(fake).open(journal)
    assert fake.starts == 0
    told = [ChatRequest("Is it red?"), ChatRequest("Is it blue?")]
    answers = vlm.answer(told)
    assert fake.starts == 1
    del vlm
    wait_until(lambda: not fake.servers())

    again = vlm_config(fake).open(journal)
    assert again.answer(told[::-1]) == answers[::-1]
    assert fake.starts == 1
    assert again.answer([*told, ChatRequest("Is it green?")])[:2] == answers
    assert fake.starts == 2
    del again
    assert not fake.servers()


def test_weights_that_are_missing_or_no_vlm_s_are_named_before_anything_is_asked(tmp_path):
    with pytest.raises(MissingWeightsError, match="no-such-folder"):
        VlmConfig(model=str(tmp_path / "no-such-folder"), device="cpu").open()
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(InputError, match="sees no images"):
        VlmConfig(model=str(tmp_path), device="cpu").open()


def test_what_keeps_weights_from_being_made_ready_ends_the_job_as_a_server_that_does_not_start(fake, monkeypatch):
    """Nothing else would: an error of a question puts its row in quarantine."""

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(vllm_server, "merged_folder", full)
    vlm = vlm_config(fake).open()
    with pytest.raises(WorkFailedError, match="does not start: OSError: no space left"):
        vlm.answer([ChatRequest("Who are you?")])


def test_who_must_know_that_it_starts_has_it_started_when_it_is_opened(fake, tmp_path, monkeypatch):
    with started_when_opened():
        vlm = vlm_config(fake).open()
        assert len(fake.servers()) == 1
    del vlm
    (tmp_path / "broken").mkdir()
    broken = fake_vllm(tmp_path / "broken", monkeypatch, broken=True)
    with started_when_opened(), pytest.raises(WorkFailedError, match="no such card"):
        vlm_config(broken).open()
    vlm_config(broken).open()  # outside it is not


def test_threads_that_wait_for_one_start_fail_with_it_and_the_next_tries_again(tmp_path, monkeypatch):
    all_wait = tmp_path / "all_wait"
    broken = fake_vllm(tmp_path, monkeypatch, broken=True, until=all_wait)
    vlm = vlm_config(broken).open()

    def ask(number):
        with pytest.raises(WorkFailedError, match=r"after 2 starts; its last words(?s:.*)no such card"):
            vlm.answer([ChatRequest(f"Is it number {number}?")])

    with ThreadPoolExecutor(6) as pool:
        asking = pool.map(ask, range(6))
        wait_until(lambda: len(who_wait) == 6)
        all_wait.touch()
        list(asking)
    assert broken.starts == 2
    assert not who_wait
    with pytest.raises(WorkFailedError):
        vlm.answer([ChatRequest("And now?")])
    assert broken.starts == 4
