"""Editing files that are replaced while a run goes on: named, and never mixed."""

import os
import shutil
from dataclasses import replace

import pytest

from commands.main import main
from microworld.scenes.edit_file import write_edit_file
from pipelines.edit_contents import changed_files, check_edit_files, check_edits_to_keep
from pipelines.jobs import resolve_chains
from pipelines.new_run import new_dataset_run
from pipelines.prompts.edit_files import EditIntake, EditQuality, EditReader, iterate_edits
from recipes import catalogue
from schemas.errors import ForeignRunError, StorageError


@pytest.fixture
def run(tmp_path):
    """A run that was just started, on a file of twelve triplets."""
    write_edit_file(tmp_path / "edits.parquet", 12, seed=1, flawed_share=0.0)
    micro = catalogue.load("micro", "dataset")
    config = replace(micro, subsets=("editing",), num_prompts=12, unit_size=4, edits=str(tmp_path / "edits.parquet"))
    return new_dataset_run(str(tmp_path / "run"), "micro", config), config


def other_images(path):
    """The same instructions, other images."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pq.read_table(path).to_pylist()
    images = [row["edited_img"] for row in rows]
    for row, image in zip(rows, images[1:] + images[:1], strict=True):
        row["edited_img"] = image
    schema = pq.read_schema(path)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=4)


def commit_all(folder, config):
    for step in resolve_chains(folder, config)["editing"][:1]:
        for unit in folder.units():
            folder.storage.commit(folder.block_path(step.name, step.key, unit), b"a block")


def test_a_file_that_was_replaced_is_named_and_nothing_goes_on(run, tmp_path, caplog):
    folder, config = run
    check_edit_files(folder, config)
    other_images(tmp_path / "edits.parquet")
    with pytest.raises(ForeignRunError, match=r"edits.parquet has other contents than the run took in\n.*mixed"):
        check_edit_files(folder, config)
    with pytest.raises(ForeignRunError, match=r"edits\.parquet"):
        check_edits_to_keep(folder)
    assert main(["resume", "--run", str(tmp_path / "run")]) == 3
    commit_all(folder, config)  # nothing of it is to be read any more
    check_edit_files(folder, config)
    assert "edits.parquet has other contents" in caplog.text


def test_the_same_contents_are_the_same_file(run, tmp_path):
    folder, config = run
    path = tmp_path / "edits.parquet"
    shutil.copy(path, tmp_path / "copy")
    os.replace(tmp_path / "copy", path)  # another inode, other times
    assert list(changed_files(folder, deep=True)) == []
    check_edit_files(folder, config)
    data, stat = bytearray(path.read_bytes()), path.stat()
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # only its bytes tell
    assert len(list(changed_files(folder))) == 1
    path.unlink()
    assert list(changed_files(folder)) == [f"{path} is not there any more"]


@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_a_file_that_is_replaced_under_the_reader_stops_it(tmp_path, kind):
    path = tmp_path / f"edits.{kind}"
    write_edit_file(path, 6, seed=1, flawed_share=0.0)
    rows, reader = list(iterate_edits(str(path), EditQuality(0, 0, 0), EditIntake())), EditReader()
    edits = [row.edit for row in rows if row.edit is not None]
    reader.read_images(edits[0])
    shutil.copy(path, tmp_path / "copy")
    os.replace(tmp_path / "copy", path)
    with pytest.raises(StorageError, match="replaced while the run reads it"):
        reader.read_images(edits[1])
