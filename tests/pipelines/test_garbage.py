"""`gc` removes what is the run's own and nothing refers to: nothing behind a link, nothing of others, nothing when it
cannot be told what is referred to."""

import os
import shutil
from pathlib import Path

import pytest

from commands.main import main
from pipelines.garbage import collect_garbage
from pipelines.stages.select_pairs import SelectPairsConfig
from schemas.errors import ForeignRunError
from schemas.storage import LocalStorage
from tests.support.invented_run import Invented, invented_run
from tests.support.toy_job import ToyConfig, open_run
from tests.support.toy_runs import flip, run, stamps

UNUSED = "stages/old_stage/" + "a" * 16
QUANTILES = ToyConfig(select=SelectPairsConfig(difficulty="quantiles"))


def block(folder: Path, number: str = "000", name: str = "000000.parquet") -> Path:
    path = folder / number / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * 100)
    return path


def files(folder: Path) -> set[str]:
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {path for path in found if not path.startswith(".lease/")}


@pytest.mark.parametrize("level", ["stages/linked", "stages/linked/" + "a" * 16, UNUSED + "/000"])
def test_nothing_behind_a_link_is_removed(finished, tmp_path, level):
    """Another run's stage, key or folder of blocks, linked to save disk."""
    other = tmp_path / "other"
    block(other / UNUSED)
    before = files(other)
    (finished / level).parent.mkdir(parents=True, exist_ok=True)
    target = {1: "stages/old_stage", 2: UNUSED, 3: UNUSED + "/000"}[level.count("/")]
    (finished / level).symlink_to(other / target)
    found = collect_garbage(*open_run(str(finished)), keep="paired")
    assert found.links == [level]
    assert found.num_blocks == 0
    assert files(other) == before
    assert (finished / level).is_symlink()


def test_a_run_whose_stages_are_a_link_loses_nothing(finished, tmp_path):
    moved = shutil.move(finished / "stages", tmp_path / "disk")
    (finished / "stages").symlink_to(moved)
    block(finished / UNUSED)
    before = files(Path(moved))
    found = collect_garbage(*open_run(str(finished)), keep="paired")
    assert (found.links, found.num_blocks, found.num_images) == (["stages"], 0, 0)
    assert files(Path(moved)) == before


def test_a_link_to_a_block_is_removed_and_its_target_is_not(finished, tmp_path):
    kept = tmp_path / "kept.parquet"
    kept.write_bytes(b"x")
    (finished / UNUSED / "000").mkdir(parents=True)
    (finished / UNUSED / "000" / "000000.parquet").symlink_to(kept)
    assert collect_garbage(*open_run(str(finished)), keep="all").num_blocks == 1
    assert not (finished / UNUSED).exists()
    assert kept.exists()


def test_deleting_a_link_never_empties_what_it_leads_to(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "file").write_bytes(b"x")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "link").symlink_to(tmp_path / "target")
    LocalStorage(tmp_path / "run").delete("link")
    assert not os.path.lexists(tmp_path / "run" / "link")
    assert (tmp_path / "target" / "file").exists()


@pytest.mark.parametrize(
    "stranger",
    [f"{UNUSED}/000/notes.txt", f"{UNUSED}/000/000000 (conflicted copy).parquet"],
)
def test_what_others_left_beside_garbage_stays(finished, stranger):
    gone = block(finished / UNUSED)
    (finished / stranger).write_bytes(b"mine")
    assert collect_garbage(*open_run(str(finished)), keep="all").num_blocks == 1
    assert not gone.exists()
    assert (finished / stranger).read_bytes() == b"mine"


def test_folders_of_others_in_stages_stay(finished):
    for name in ("Backup of stages", "old_stage/notes", ".snapshot/" + "a" * 16):
        block(finished / "stages" / name)
    before = files(finished)
    assert collect_garbage(*open_run(str(finished)), keep="all").num_blocks == 0
    assert files(finished) == before


@pytest.mark.parametrize("harm", ["flipped", "cut", "gone", "emptied"])
def test_gc_refuses_while_a_barrier_does_not_read_and_removes_nothing(tmp_path, harm):
    """Without it, every block behind it would look as if nothing referred to it."""
    path = tmp_path / "run"
    run(path, QUANTILES)
    block(path / UNUSED)
    (barrier,) = (path / "barriers").iterdir()
    whole = barrier.read_bytes()
    if harm == "flipped":
        flip(barrier, at=whole.index(b"hard_max") / len(whole) + 1e-9)
    elif harm == "gone":
        barrier.unlink()
    else:
        barrier.write_bytes(whole[:10] if harm == "cut" else b"")
    before = stamps(path)
    for dry_run in (True, False):
        with pytest.raises(ForeignRunError, match=r"so nothing was removed\n.*resume --run"):
            collect_garbage(*open_run(str(path)), keep="all", dry_run=dry_run)
    assert stamps(path) == before
    assert run(path)
    assert barrier.read_bytes() == whole
    assert collect_garbage(*open_run(str(path)), keep="all").num_blocks == 1


def test_a_dry_run_says_what_would_go_with_sizes_and_removes_nothing(tmp_path, capsys):
    path = tmp_path / "run"
    invented_run(path, Invented(num_prompts=8, num_candidates=4))
    block(path / UNUSED)
    before = files(path)
    command = ["gc", "--run", str(path), "--keep-candidates", "paired"]
    assert main([*command, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert f"{UNUSED}: 1 blocks, 0.0 MiB" in said
    assert "generate_candidates" in said
    assert "would remove 1 blocks" in said
    assert files(path) == before
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines()[:-2] == said.splitlines()[:-1]
    assert files(path) < before
