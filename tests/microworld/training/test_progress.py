import json
from itertools import pairwise

import pytest

from microworld.training.training_loop import TrainingClock, export_folder, learning_rate_factor, save_curve


def test_a_resumed_clock_keeps_its_schedule(capsys):
    clock = TrainingClock(minutes=1, name="model", report_every_s=0)
    clock.step(32, {"loss": 2.0})
    clock.spent_s = 45.0
    resumed = TrainingClock(minutes=1, name="model")
    resumed.restore(clock.state())
    assert resumed.share() == pytest.approx(0.75)
    assert (resumed.num_steps, resumed.num_samples) == (1, 32)
    resumed.spent_s = 61.0
    assert not resumed.running()
    assert "loss 2" in capsys.readouterr().out


def test_the_clock_reports_means_and_counts_no_pauses(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    clock = TrainingClock(minutes=1, name="model", report_every_s=3)
    for loss in (1.0, 3.0):
        now[0] += 2
        clock.step(10, {"loss": loss})
    now[0] += 50
    clock.pause()
    assert clock.spent_s == 4
    assert clock.curve == [{"minutes": 4 / 60, "samples": 20, "loss": 2.0}]


def test_due_comes_once_an_interval():
    clock = TrainingClock(minutes=1, name="model")
    found = []
    for second in range(10):
        clock.spent_s = float(second)
        found.append(clock.due("checkpoint", every_s=3))
    assert [i for i, due in enumerate(found) if due] == [3, 6, 9]


def test_learning_rate_warms_up_holds_and_decays():
    factors = [learning_rate_factor(i / 100, warmup=0.1, decay=0.2, final=0.0) for i in range(101)]
    assert factors[0] < 0.01
    assert factors[50] == 1.0
    assert factors[90] == pytest.approx(0.5)
    assert factors[100] == 0.0
    assert all(a >= b for a, b in pairwise(factors[80:]))


def test_export_replaces_files_and_leaves_others(tmp_path):
    out = tmp_path / "flux"
    (out / "vae").mkdir(parents=True)
    (out / "vae" / "weights").write_text("kept")
    (out / "config.json").write_text("old")

    def save(folder):
        (folder / "config.json").write_text("new")
        (folder / "transformer").mkdir()
        (folder / "transformer" / "weights").write_text("w")

    export_folder(save, out)
    assert (out / "config.json").read_text() == "new"
    assert (out / "transformer" / "weights").read_text() == "w"
    assert (out / "vae" / "weights").read_text() == "kept"
    assert [p.name for p in tmp_path.iterdir()] == ["flux"]


def test_the_curve_is_saved_as_json(tmp_path):
    clock = TrainingClock(minutes=1, name="model")
    clock.curve = [{"minutes": 0.1, "samples": 8, "loss": 1.0}, {"minutes": 0.2, "samples": 16, "score": 0.5}]
    save_curve(clock, tmp_path)
    assert json.loads((tmp_path / "model_curve.json").read_text()) == clock.curve
