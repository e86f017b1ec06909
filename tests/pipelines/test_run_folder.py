import json
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.intake import lay_out
from pipelines.run_folder import RunFolder, RunInfo
from schemas.blocks import footer_of
from schemas.errors import CorruptDataError, ForeignRunError, WorkFailedError
from schemas.storage import LocalStorage
from tests.support.toy_job import ToyConfig, create, open_run, prompts
from tests.support.toy_runs import blocks, flip


def folder_with(segments, unit_size) -> RunFolder:
    info = RunInfo(1, "toy", {}, 0, unit_size, "root", segments, {}, {}, "", "")
    return RunFolder(LocalStorage("/nowhere"), info)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(1, 9))
def test_every_prompt_is_in_one_unit_and_units_are_numbered_through(counts, unit_size):
    subsets: dict[str, int] = dict(zip(("rule", "general", "length", "editing"), counts, strict=False))
    folder = folder_with(lay_out(subsets, unit_size), unit_size)
    assert folder.units() == list(range(folder.num_units))
    assert [unit for subset in folder.subsets for unit in folder.units(subset)] == folder.units()
    held = []
    for unit in folder.units():
        segment = folder.segment_of(unit)
        first = segment.first_prompt + (unit - segment.first_unit) * unit_size
        last = min(first + unit_size, segment.first_prompt + segment.num_prompts)
        assert 0 < last - first <= unit_size
        held += range(first, last)
    assert held == list(range(sum(counts)))


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 9))
def test_appending_keeps_the_units_there_are(before, more, unit_size):
    old = lay_out({"rule": before}, unit_size)
    new = (*old, *lay_out({"rule": more}, unit_size, after=old))
    folder, longer = folder_with(old, unit_size), folder_with(new, unit_size)
    assert longer.units()[: folder.num_units] == folder.units()
    assert [longer.segment_of(unit) for unit in folder.units()] == [folder.segment_of(unit) for unit in folder.units()]
    assert new[-1].first_prompt == before
    assert longer.num_prompts("rule") == before + more


def test_a_unit_that_the_run_does_not_have_is_a_key_error(tmp_path):
    folder = create(str(tmp_path / "run"), ToyConfig())
    with pytest.raises(KeyError, match="units 0 to 4"):
        folder.segment_of(5)


def test_prompts_are_read_by_unit_beyond_one_row_group(tmp_path):
    config = ToyConfig(num_prompts=2500, unit_size=7)
    folder = create(str(tmp_path / "run"), config)
    opened, _ = open_run(str(tmp_path / "run"))
    assert [row for unit in opened.units() for row in opened.prompts(unit)] == prompts(config)
    assert len(opened.prompts(folder.num_units - 1)) == 2500 % 7


def test_one_thread_at_a_time_reads_the_prompts(tmp_path, monkeypatch):
    """Arrow's reader in two threads: `ReadRangeCache did not find matching cache entry`, or an abort of the process."""
    config = ToyConfig(num_prompts=20, unit_size=5)
    create(str(tmp_path / "run"), config)
    opened, _ = open_run(str(tmp_path / "run"))
    reading, most, read = threading.Semaphore(0), [], pq.ParquetFile.read_row_group

    def noting(file, group, **how):
        reading.release()
        time.sleep(0.05)
        most.append(reading._value)
        found = read(file, group, **how)
        reading.acquire()
        return found

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", noting)
    with ThreadPoolExecutor(4) as pool:
        rows = [row for unit in pool.map(opened.prompts, opened.units()) for row in unit]
    assert rows == prompts(config)
    assert most == [1]  # and once for all


def test_appended_prompts_are_found_in_new_units(tmp_path):
    old = ToyConfig(num_prompts=6)
    new = ToyConfig(num_prompts=11)
    folder = create(str(tmp_path / "run"), old)
    segments = (*folder.info.segments, *lay_out({"rule": 5}, 4, after=folder.info.segments))
    longer = RunFolder.create(str(tmp_path / "run"), replace(folder.info, segments=segments), prompts(new))
    assert [len(longer.prompts(unit)) for unit in longer.units()] == [4, 2, 4, 1]
    assert [row for unit in longer.units() for row in longer.prompts(unit)] == prompts(new)


def test_what_was_asked_is_read_back(tmp_path):
    config = ToyConfig(seed=3, num_prompts=5)
    folder = create(str(tmp_path / "run"), config)
    opened, read = open_run(str(tmp_path / "run"))
    assert read == config
    assert replace(opened.info, config={}) == replace(folder.info, config={})


def test_a_folder_travels_to_a_worker(tmp_path):
    folder = create(str(tmp_path / "run"), ToyConfig())
    folder.prompts(0)
    assert pickle.loads(pickle.dumps(folder)).prompts(1) == folder.prompts(1)


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"format": 99}',
        b'{"format": 1}',
        b'{"format": 2}',
        b"\xff\xfe",
        b'{"format": 2, "segments": 3}',
    ],
)
def test_a_folder_that_is_no_run_is_a_foreign_run(tmp_path, content):
    if content is not None:
        (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(ForeignRunError, match=str(tmp_path)):
        RunFolder.open(str(tmp_path))


def test_a_file_and_a_missing_folder_are_no_runs(tmp_path):
    (tmp_path / "file").write_text("x")
    for name in ("file", "missing"):
        assert not RunFolder.exists(str(tmp_path / name))
        with pytest.raises(ForeignRunError, match="no run here"):
            RunFolder.open(str(tmp_path / name))
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("harm", ["missing", "cut", "flipped"])
def test_broken_prompts_say_what_to_do(tmp_path, harm):
    create(str(tmp_path / "run"), ToyConfig(num_prompts=1000))
    file = tmp_path / "run" / "prompts.parquet"
    if harm == "missing":
        file.unlink()
    elif harm == "cut":
        file.write_bytes(file.read_bytes()[:-20])
    else:
        flip(file, at=0.2)
    folder, _ = open_run(str(tmp_path / "run"))
    with pytest.raises(WorkFailedError, match=r"prompts\.parquet does not read.*\n.*copy"):
        folder.prompts(0)


def test_a_block_under_another_units_name_is_refused(finished):
    first, second = blocks(finished, "check_colors")[:2]
    second.write_bytes(first.read_bytes())
    folder, _ = open_run(str(finished))
    key = second.parts[-3]
    assert folder.read_block("check_colors", key, 0)
    with pytest.raises(CorruptDataError, match=r"its footer says check_colors/.* unit 0"):
        folder.read_block("check_colors", key, 1)


def test_committed_units_are_those_with_a_final_name(tmp_path):
    folder = create(str(tmp_path / "run"), ToyConfig())
    rows = folder.prompts(0)
    for unit in (0, 999, 1000):
        folder.write_block(footer_of("draw", "key", unit, "hash", rows), rows, with_images=False)
    base = tmp_path / "run" / "stages" / "draw" / "key"
    (base / "000" / ".tmp-000001.parquet-1234").write_bytes(b"half")
    (base / "000" / "notes.parquet").write_bytes(b"")
    (base / "000" / "000002.parquet.bak").write_bytes(b"")
    assert folder.committed_units("draw", "key") == {0, 999, 1000}
    assert sorted(p.name for p in base.iterdir()) == ["000", "001"]
    folder.delete_block("draw", "key", 999)
    assert folder.committed_units("draw", "key") == {0, 1000}


def test_a_barrier_or_sidecar_that_does_not_read_counts_as_missing(tmp_path):
    folder = create(str(tmp_path / "run"), ToyConfig())
    folder.write_checked("barriers/good-1.json", {"hard_max": 0.5})
    folder.write_json("barriers/without-1.json", {"hard_max": 0.5})
    for name in ("barriers/bad-1.json", "shards/genref_000000.json", "shards/genref_000001.json"):
        folder.write_json(name, [])
    (tmp_path / "run" / "barriers" / "bad-1.json").write_text("{")
    (tmp_path / "run" / "shards" / "genref_000001.json").write_text("{")
    assert folder.barrier("barriers/good-1.json") == {"hard_max": 0.5}
    for name in ("bad-1", "without-1", "missing-1"):
        assert folder.barrier(f"barriers/{name}.json") is None
    assert folder.sidecar(0) is None
    assert folder.sidecar(1) is None


def test_run_json_is_readable_by_people(tmp_path):
    create(str(tmp_path / "run"), ToyConfig())
    text = (tmp_path / "run" / "run.json").read_text()
    assert text.count("\n") > 20
    assert json.loads(text)["config"]["draw"]["candidates_per_prompt"] == 4
