"""Editing datasets of many files: folders, globs, s3:// and hf://, in one order, read by parts."""

import uuid
from pathlib import Path

import pytest

from microworld.scenes.edit_file import write_edit_file
from pipelines.prompts.edit_files import EditIntake, EditQuality, EditReader, iterate_edits
from pipelines.stages.read_edits import ReadEdits, ReadEditsConfig
from schemas.errors import InputError, StorageError
from schemas.find_files import find_files, natural_key
from schemas.hub_storage import HubStorage
from schemas.open_storage import open_storage
from tests.support.hub_server import COMMIT, HubServer
from tests.support.s3_server import ENVIRONMENT, shared_server

ANY = EditQuality(0, 0, 0)
NAMES = [*(f"train-{n}.parquet" for n in (1, 2, 9, 10, 11)), "train-12.tar"]  # in natural order


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Six files of three triplets each, in a folder as the hub's datasets have it."""
    root = tmp_path_factory.mktemp("edits")
    (root / "data").mkdir()
    for seed, name in enumerate(NAMES):
        write_edit_file(root / "data" / name, 3, seed=seed, flawed_share=0.0)
    (root / "README.md").write_text("# A dataset\n")
    return root


def rows_of(where):
    return list(iterate_edits(where, ANY, EditIntake()))


def images_of(rows):
    reader = EditReader()
    return [reader.read_images(row.edit) for row in rows]


def names_of(rows):
    return [row.edit.file.rpartition("/")[2] for row in rows]


def test_a_folder_a_glob_and_the_folder_above_are_the_same_rows_in_natural_order(dataset):
    rows = rows_of(str(dataset / "data"))
    assert names_of(rows) == [name for name in NAMES for _ in range(3)]
    assert [row.prompt.prompt_id for row in rows] == [f"editing-{n:06d}" for n in range(1, 19)]
    for where in (dataset, f"{dataset}/*/train-*", f"{dataset}/data/train-[0-9]*.*"):
        assert rows_of(str(where)) == rows
    assert names_of(rows_of(f"{dataset}/data/train-1?.parquet")) == [n for n in NAMES[3:5] for _ in range(3)]
    for one, number in ((rows[4], 1), (rows[-1], 5)):  # ... and those of each file alone
        alone = rows_of(str(dataset / "data" / NAMES[number]))
        assert one.edit in [row.edit for row in alone]


def test_workers_that_take_turns_read_the_same_images(dataset):
    rows = rows_of(str(dataset))
    together = images_of(rows)
    apart = {}
    for worker in range(3):
        mine = range(worker, len(rows), 3)
        apart |= dict(zip(mine, images_of([rows[i] for i in mine]), strict=True))
    assert [apart[i] for i in range(len(rows))] == together
    assert images_of(rows[::-1]) == together[::-1]


def test_no_file_is_opened_before_its_turn(dataset, tmp_path):
    write_edit_file(tmp_path / "1.parquet", 3, seed=0, flawed_share=0.0)
    (tmp_path / "2.parquet").write_bytes(b"PAR1 broken")
    edits = iterate_edits(str(tmp_path), ANY, EditIntake())
    assert len([next(edits) for _ in range(3)]) == 3
    with pytest.raises(InputError, match=r"2\.parquet: not readable as Parquet"):
        next(edits)


def test_of_a_row_group_of_many_pages_a_few_rows_are_in_memory(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from microworld.scenes.edit_file import sample_edit_row

    big = {"src_img": bytes(300_000), "edited_img": bytes(300_000)}
    table = pa.Table.from_pylist([sample_edit_row(0, n, 0.0) | big for n in range(200)])
    written = {"row_group_size": 200, "write_batch_size": 4, "compression": "none", "use_dictionary": False}
    pq.write_table(table, tmp_path / "e.parquet", **written)
    rows = rows_of(str(tmp_path / "e.parquet"))
    del table
    pool, before = pa.default_memory_pool(), pa.total_allocated_bytes()
    reader, most = EditReader(), 0
    for edit in [row.edit for row in rows if row.edit]:
        reader.read_images(edit)
        most = max(most, pool.bytes_allocated() - before)
    assert most < 20e6  # of 120 MB


def test_a_place_without_editing_data_is_refused(tmp_path):
    with pytest.raises(InputError, match="no editing data there"):
        rows_of(str(tmp_path))
    with pytest.raises(InputError, match="no editing data there"):
        rows_of(f"{tmp_path}/*.parquet")


def test_a_bad_row_names_its_file_and_its_row_there(dataset, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name, texts in (("a.parquet", ["x", "y"]), ("b.parquet", ["x", ""])):
        rows = [{"src_img": b"", "edited_img": b"", "edited_prompt_list": [text]} for text in texts]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
    with pytest.raises(InputError, match=r"b\.parquet:2: "):
        rows_of(str(tmp_path))
    kept = list(iterate_edits(str(tmp_path), ANY, EditIntake(), skip_bad_rows=True))
    assert kept[3].rejection.detail.startswith("b.parquet: row 2: ")
    assert [row.rejection is None for row in kept] == [True, True, True, False]


def test_an_object_store_gives_the_same_rows_and_images(dataset, monkeypatch):
    for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{shared_server().port}"}.items():
        monkeypatch.setenv(name, value)
    uri = f"s3://bucket/{uuid.uuid4().hex}"
    for path in [*(dataset / "data").iterdir(), dataset / "README.md"]:
        open_storage(uri).commit(path.relative_to(dataset).as_posix(), path.read_bytes())
    local = rows_of(str(dataset))
    for where in (uri, f"{uri}/data", f"{uri}/d*/train-*"):
        rows = rows_of(where)
        assert [row.edit.file for row in rows] == [f"{uri}/data/{name}" for name in NAMES for _ in range(3)]
        assert [row.prompt for row in rows] == [row.prompt for row in local]
    assert images_of(rows) == images_of(local)


@pytest.fixture
def hub(dataset, monkeypatch, tmp_path):
    from huggingface_hub import HfFileSystem

    server = HubServer("org/edits", dataset)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    HfFileSystem.clear_instance_cache()
    yield server
    server.stop()


def test_the_hub_gives_the_same_rows_and_images_by_parts_of_its_files(dataset, hub):
    local = rows_of(str(dataset))
    rows = rows_of("hf://datasets/org/edits/data/*")
    assert [row.edit.file for row in rows] == [
        f"hf://datasets/org/edits@{COMMIT}/data/{name}" for name in NAMES for _ in range(3)
    ]
    assert [row.prompt for row in rows] == [row.prompt for row in local]
    stage = ReadEdits(ReadEditsConfig(), 0)
    stage.load()
    assert [row.candidates for row in stage(rows)] == [tuple(c for c in row.candidates) for row in _read_locally(local)]
    assert rows_of("hf://datasets/org/edits") == rows
    assert all(asked for method, path, asked in hub.requests if "/resolve/" in path and method == "GET")


def _read_locally(rows):
    stage = ReadEdits(ReadEditsConfig(), 0)
    stage.load()
    return stage(rows)


def test_what_lies_in_the_hub_cache_is_read_there_and_nothing_is_asked(dataset, hub, tmp_path, caplog):
    repository = tmp_path / "hub" / "datasets--org--edits"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / COMMIT).symlink_to(dataset)
    rows = rows_of("hf://datasets/org/edits/data/*.parquet")
    assert names_of(rows) == [name for name in NAMES[:5] for _ in range(3)]
    assert images_of(rows) == images_of(rows_of(f"{dataset}/data/*.parquet"))
    assert hub.requests == []
    assert "the 5 files of it in the local hub cache are read, and no others" in caplog.text
    # A worker whose cache has nothing reads the same files from the hub.
    (repository / "snapshots" / COMMIT).unlink()
    assert images_of(rows[:1]) == images_of(rows_of(f"{dataset}/data/{NAMES[0]}")[:1])


def test_a_hub_that_does_not_answer_and_one_without_the_dataset_are_told_apart(hub, monkeypatch):
    with pytest.raises(InputError, match="no dataset of the hub"):
        HubStorage("hf://models/org/edits")
    with pytest.raises(InputError, match="nothing is written there"):
        open_storage(f"hf://datasets/org/edits@{COMMIT}").commit("a", b"")
    with pytest.raises(InputError, match="the hub has no dataset 'org/none'"):
        rows_of("hf://datasets/org/none")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match=r"the hub does not answer[\s\S]*hf download --repo-type dataset org/edits"):
        rows_of("hf://datasets/org/edits")


def test_names_sort_by_the_value_of_their_numbers():
    names = ["b", "a10", "a9", "a09", "a9-2", "10", "9"]
    assert sorted(names, key=natural_key) == ["9", "10", "a09", "a9", "a9-2", "a10", "b"]


def test_a_single_file_is_found_by_every_kind_of_path(dataset, monkeypatch):
    monkeypatch.chdir(dataset)
    for where in ("data/train-1.parquet", "./data/train-1.parquet", str(Path("data/train-1.parquet").resolve())):
        assert find_files(where, (".parquet",))[1] == ["train-1.parquet"]
    monkeypatch.chdir(dataset / "data")
    assert names_of(rows_of("train-1.parquet")) == ["train-1.parquet"] * 3
    assert len(rows_of("*.parquet")) == 15
