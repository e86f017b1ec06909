import pytest

from pipelines.runtime import progress as module
from pipelines.runtime.progress import Progress, StageProgress, format_seconds
from tests.support.processes import wait_until


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (28.4, "0:28"), (125, "2:05"), (3723, "1:02:03")])
def test_times_read_as_clocks(seconds, text):
    assert format_seconds(seconds) == text


def test_a_line_says_done_rate_eta_rejected_and_quarantined():
    stage = StageProgress("draw", total=48, already=10, done=13, rejected=2, quarantined=1)
    line = stage.line(elapsed_s=10)
    assert line.split() == ["draw", "23/48", "units", "1.3/s", "ETA", "0:19", "2", "rejected", "1", "in", "quarantine"]


def test_units_done_before_do_not_count_towards_the_rate():
    assert "/s" not in StageProgress("draw", total=48, already=40).line(elapsed_s=10)


def test_plain_lines_are_printed_where_there_is_no_terminal(capsys):
    with Progress([StageProgress("draw", total=2), StageProgress("unused", total=0)]) as progress:
        progress.add_counts("draw", rejected=1)
        progress.add_counts("draw")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[:2] for line in lines] == [["draw", "2/2"]]


def test_quiet_prints_nothing(capsys):
    with Progress([StageProgress("draw", total=1)], quiet=True) as progress:
        progress.add_counts("draw")
    assert capsys.readouterr().err == ""


def test_a_long_unit_is_not_silent(capsys, monkeypatch):
    monkeypatch.setattr(module, "PLAIN_EVERY_S", 0.02)
    said: list[str] = []
    with Progress([StageProgress("draw", total=2, done=1), StageProgress("check", total=2)]):
        wait_until(lambda: said.append(capsys.readouterr().err) or "at work for" in "".join(said))
    lines = "".join([*said, capsys.readouterr().err]).splitlines()
    assert lines[0].split()[:2] == ["draw", "1/2"]  # all stages, as one unit is done
    assert lines[1].split()[:2] == ["check", "0/2"]
    assert "draw" in lines[2]  # from here on what is being done
    assert "at work for 0:" in lines[2]
    assert sum("check" in line for line in lines) == 2  # and all at the end
