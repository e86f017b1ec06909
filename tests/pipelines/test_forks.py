"""A fork that is killed before any single operation on its folder: the same command makes it whole."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from commands.run import RunArgs, start
from pipelines.jobs import DatasetConfig, resolve_chains
from pipelines.new_run import new_dataset_run
from pipelines.quarantine import quarantined_rows
from pipelines.run_folder import RunFolder
from recipes import catalogue
from schemas.arrow import hash_rows
from schemas.blocks import footer_of
from schemas.errors import ForeignRunError
from schemas.records import Quarantine, Rejection
from schemas.storage import LocalStorage

CONFIG = replace(catalogue.load("micro", "dataset"), num_prompts=6, unit_size=2)
OTHER_PAIRS = replace(CONFIG, select=replace(CONFIG.select, pairs_per_prompt=7))
OPERATIONS = ("commit", "swap_lease", "copy_from", "delete")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A run without images: a prompt of unit 0 failed while it was drawn, one of unit 2 while it was checked."""
    path = tmp_path_factory.mktemp("source") / "run"
    folder = new_dataset_run(str(path), "micro", CONFIG)
    steps = resolve_chains(folder, CONFIG)["rule"]
    for unit in folder.units():
        rows = folder.prompts(unit)
        upstream = hash_rows(rows)
        for step in steps:
            if (step.index, unit) in ((0, 0), (1, 2)):
                rows = [rows[0], replace(rows[1], quarantine=Quarantine(step.name, "ValueError: no"))]
                entry = {"key": step.key, "prompt_id": rows[1].prompt.prompt_id, "error": "no", "traceback": "why"}
                folder.write_checked(f"quarantine/{step.name}/{unit:06d}-001.json", entry)
            if step is steps[-1]:
                rows = [replace(r, rejection=Rejection(step.name, "all_wrong", "")) if r.active else r for r in rows]
            folder.write_block(footer_of(step.name, step.key, unit, upstream, rows), rows, with_images=False)
            upstream = hash_rows(rows)
    return path


def fork(source: Path, target: Path, config: DatasetConfig = OTHER_PAIRS) -> RunFolder:
    return start(RunArgs(str(source), "micro", str(target), config))[0]


def state(path: Path) -> dict[str, bytes]:
    held = {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    return {name: data for name, data in held.items() if name != "run.json" and not name.startswith(".lease")}


def failed(path: Path, config: DatasetConfig) -> list[tuple[int, int, str, bool]]:
    """Rows in quarantine, and whether each has its entry."""
    folder = RunFolder.open(str(path))
    return [
        (row.unit, row.row, row.stage, folder.quarantine_entry(row.stage, row.unit, row.row) is not None)
        for row in quarantined_rows(folder, config)
    ]


def test_a_fork_that_was_killed_anywhere_is_made_whole_by_the_same_command(source, tmp_path, monkeypatch):
    # A killed process is gone, and its lease counts no more.
    monkeypatch.setattr("pipelines.lease._process_state", lambda pid, started: None)
    fork(source, tmp_path / "whole")
    whole = state(tmp_path / "whole")
    assert sum(name.startswith("stages/") for name in whole) == 6
    assert [found[3] for found in failed(tmp_path / "whole", OTHER_PAIRS)] == [True, True]
    kills = 0
    while kills < 100:
        target, left = tmp_path / f"killed_{kills}", kills
        with monkeypatch.context() as patch:

            def before(operation):
                def guarded(self, *arguments):
                    nonlocal left
                    if left == 0:
                        raise KeyboardInterrupt
                    left -= 1
                    return operation(self, *arguments)

                return guarded

            for name in OPERATIONS:
                patch.setattr(LocalStorage, name, before(getattr(LocalStorage, name)))
            try:
                fork(source, target)
                break
            except KeyboardInterrupt:
                kills += 1
        half = {name for name in state(target) if name.startswith("stages/")} if target.exists() else set()
        assert half <= set(whole)
        fork(source, target)
        assert state(target) == whole
        assert failed(target, OTHER_PAIRS) == failed(tmp_path / "whole", OTHER_PAIRS)
    assert kills >= 10


def test_the_same_fork_again_goes_on_and_another_is_refused(source, tmp_path):
    first = fork(source, tmp_path / "fork")
    before = state(tmp_path / "fork")
    assert fork(source, tmp_path / "fork").info.prompts_sha256 == first.info.prompts_sha256
    assert state(tmp_path / "fork") == before
    with pytest.raises(ForeignRunError, match=r"another configuration already.*\n  select\.pairs_per_prompt: 7 -> "):
        fork(source, tmp_path / "fork", CONFIG)


def test_a_fork_into_a_folder_of_others_is_refused(source, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(ForeignRunError, match=r"not empty, and no run \(it holds thesis\.tex\)"):
        fork(source, tmp_path / "mine")


def test_appending_that_was_killed_anywhere_leaves_a_run_that_takes_more(source, tmp_path, monkeypatch):
    """prompts.parquet and run.json change one after the other."""
    more = replace(CONFIG, num_prompts=9)
    for kill in range(20):
        path = tmp_path / f"run_{kill}"
        new_dataset_run(str(path), "micro", CONFIG)
        with monkeypatch.context() as patch:
            calls = iter(range(100))

            def commit(self, name, data, kill=kill, calls=calls, done=LocalStorage.commit):
                if next(calls) == kill:
                    raise KeyboardInterrupt
                done(self, name, data)

            patch.setattr(LocalStorage, "commit", commit)
            try:
                folder, _ = start(RunArgs(str(path), "micro", None, more))
                killed = False
            except KeyboardInterrupt:
                killed = True
        if killed:
            shutil.rmtree(path / ".lease", ignore_errors=True)
            assert len(list(RunFolder.open(str(path)).all_prompts())) == 6
            folder, _ = start(RunArgs(str(path), "micro", None, more))
        assert len(list(RunFolder.open(str(path)).all_prompts())) == 9
        assert len(folder.info.prompts_sha256) == 1
        if not killed:
            assert kill >= 3
            return
    raise AssertionError("never came through")
