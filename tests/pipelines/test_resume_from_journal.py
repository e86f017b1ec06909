"""A run whose VLM is a vLLM of its own has it started for what the journal does not answer, and for nothing else."""

from dataclasses import replace

import pytest

from inference.interfaces import ChatRequest
from inference.vlm.vllm_server import who_wait
from inference.vlm.vlm import VlmConfig
from pipelines.runtime.watch import Watchdog, WatchedTime
from schemas.errors import WorkFailedError
from tests.support import toy_runs
from tests.support.fake_vllm import fake_vllm
from tests.support.processes import wait_until
from tests.support.toy_job import CheckColors


@pytest.fixture
def checks_ask(monkeypatch):
    """Call with a fake vLLM: the toy's colour check then asks it one question a prompt, as stages that ask do."""

    def patch(fake):
        check = CheckColors.__call__

        def load(self):
            self.vlm = VlmConfig(model=fake.model, device="cpu", vllm_arguments=()).open(self.journal)

        def ask(self, rows):
            self.vlm.answer([ChatRequest(f"Is it {row.prompt.text}?") for row in rows])
            return check(self, rows)

        monkeypatch.setattr(CheckColors, "load", load)
        monkeypatch.setattr(CheckColors, "__call__", ask)
        monkeypatch.setattr(CheckColors, "is_client", classmethod(lambda cls, config: True))

    return patch


@pytest.mark.parametrize("schedule", ["streaming", "staged"])
def test_a_resume_whose_answers_are_all_in_the_journal_starts_no_vllm(tmp_path, monkeypatch, checks_ask, schedule):
    fake, path = fake_vllm(tmp_path, monkeypatch), tmp_path / "run"
    checks_ask(fake)
    assert toy_runs.run(path, schedule=schedule, asking_units=2)
    assert fake.starts == 1
    wait_until(lambda: not fake.servers())
    before = toy_runs.shards(path)
    for block in toy_runs.blocks(path, "check_colors")[:2]:
        block.unlink()
    assert toy_runs.run(path, schedule=schedule, asking_units=2)
    assert fake.starts == 1
    assert toy_runs.shards(path) == before

    toy_runs.blocks(path, "check_colors")[0].unlink()
    for answer in (path / "journal").rglob("*.json"):
        answer.unlink()
    assert toy_runs.run(path, schedule=schedule, asking_units=2)
    assert fake.starts == 2
    assert not fake.servers()
    assert toy_runs.shards(path) == before


@pytest.mark.parametrize("schedule", ["streaming", "staged"])
def test_a_vllm_that_does_not_start_ends_the_run_and_puts_nothing_in_quarantine(
    tmp_path, monkeypatch, checks_ask, schedule
):
    broken, path = fake_vllm(tmp_path, monkeypatch, broken=True), tmp_path / "run"
    checks_ask(broken)
    with pytest.raises(WorkFailedError, match=r"does not serve .* after 2 starts(?s:.*)no such card"):
        toy_runs.run(path, schedule=schedule, asking_units=2)
    assert broken.starts == 2
    assert not (path / "quarantine").exists()


def test_the_start_of_a_server_is_none_of_a_unit_s_time(tmp_path, monkeypatch, checks_ask):
    """The clock of who watches stands still, but for an hour at each look while somebody waits for the server."""
    up, path, ended, waited = tmp_path / "up", tmp_path / "run", [], []
    fake = fake_vllm(tmp_path, monkeypatch, until=up)
    checks_ask(fake)

    def look(clock):
        if who_wait:
            waited.append(3600.0)
            if len(waited) == 3:
                up.touch()
        return sum(waited)

    monkeypatch.setattr(WatchedTime, "look", look)
    monkeypatch.setattr(Watchdog, "_end", lambda self, at, seconds: ended.append((at, seconds)))
    monkeypatch.setattr(toy_runs, "QUICK", replace(toy_runs.QUICK, unit_limit_s=60.0))
    assert toy_runs.run(path)
    assert fake.starts == 1
    assert len(waited) >= 3
    assert not ended
