"""Editing data as others pack it: tars by WebDataset's rules, Parquet of other columns, and what is wrong said."""

import json
import logging
import re
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.prompts.edit_files import EditIntake, EditQuality, EditReader, iterate_edits
from pipelines.prompts.edit_parquet import _num_bytes
from schemas.errors import InputError
from schemas.images import decode_image, encode_png
from tests.support.foreign_tars import CASES, damaged, tar_of

ANY = EditQuality(0, 0, 0)


def png(value):
    return encode_png(np.full((8, 8, 3), value, np.uint8))


def said(text):
    return json.dumps({"edited_prompt_list": [text]}).encode()


def edit(key, source=10, edited=200, text="Paint it."):
    return [(f"{key}.src_img.png", png(source)), (f"{key}.edited_img.png", png(edited)), (f"{key}.json", said(text))]


def read(path, skip=False):
    return list(iterate_edits(str(path), ANY, EditIntake(), skip))


def greys_of(rows):
    """The grey of source and edited image of each triplet."""
    reader = EditReader()
    return [[int(decode_image(data)[0, 0, 0]) for data in reader.read_images(row.edit)] for row in rows]


def written(tmp_path, data):
    (tmp_path / "edits.tar").write_bytes(data)
    return tmp_path / "edits.tar"


def test_equal_names_in_two_folders_are_two_triplets(tmp_path):
    path = written(tmp_path, tar_of(*edit("a/0001", 1, 2, "One."), *edit("b/0001", 3, 4, "Two.")))
    rows = read(path)
    assert [row.edit.instruction for row in rows] == ["One.", "Two."]
    assert greys_of(rows) == [[1, 2], [3, 4]]
    assert greys_of(rows[::-1]) == [[3, 4], [1, 2]]


def test_folders_hidden_files_and_upper_case_suffixes_are_as_webdataset_takes_them(tmp_path):
    folder = tarfile.TarInfo("x")
    folder.type = tarfile.DIRTYPE
    source, edited, text = edit("x/1", 5, 6)
    members = [(source[0].upper().replace("X/", "x/"), source[1]), ("x/._1.src_img.png", b"of a Mac"), edited, text]
    long = edit("n" * 120 + "/2", 7, 8)
    path = written(tmp_path, tar_of((folder, b""), *members, ("LICENSE", b"free"), *long, format=tarfile.GNU_FORMAT))
    assert greys_of(read(path)) == [[5, 6], [7, 8]]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.timeout(120)
def test_of_a_tar_that_is_not_whole_the_whole_triplets_are_used_and_it_is_named(tmp_path, caplog, case):
    data, says = damaged(case, [*edit("1"), *edit("2"), ("3.json", said("x" * 900))])
    path = written(tmp_path, data)
    if case == "compressed":
        with pytest.raises(InputError, match=f"edits.tar: .*{says}"):
            read(path)
        return
    with caplog.at_level(logging.WARNING):
        rows = read(path, skip=True)
    assert greys_of([row for row in rows if row.rejection is None]) == [[10, 200]] * 2
    (record,) = caplog.records
    assert f"{path}: cut short or damaged" in record.getMessage()
    assert re.search(says, record.getMessage())


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ([*edit("1")[:2], ("1.json", b"[1, 2]")], r"'1\.json' holds list \[1, 2\].*\n.*\n.*a JSON object"),
        ([*edit("1")[:2], ("1.json", b"7")], r"'1\.json' holds int 7"),
        ([*edit("1")[:2], ("1.json", b"{")], r"'1\.json' is no JSON"),
        ([*edit("1")[:2], ("1.json", b"\xff")], r"'1\.json' is no JSON"),
        (edit("1")[1:], r"sample '1' has no src_img among edited_img\.png, json"),
        (edit("1")[:2], r"sample '1' has no json"),
        ([*edit("1"), edit("1")[0]], r"a member of sample '1' comes twice"),
        ([edit("1")[0], edit("2")[0], *edit("1")[1:]], r"sample '1' has no .*\n.*\n.*beside each other"),
        ([("README.md", b"#"), *edit("1")], r"sample 'README' has no src_img"),
    ],
    ids=["list", "number", "cut", "bytes", "no source", "no json", "twice", "unsorted", "foreign"],
)
def test_a_triplet_that_is_none_is_named_or_left_out(tmp_path, members, says):
    path = written(tmp_path, tar_of(*edit("0"), *members))
    with pytest.raises(InputError, match=rf"edits\.tar:2: .*{says}"):
        read(path)
    rows = read(path, skip=True)
    assert rows[0].rejection is None
    assert rows[1].rejection.reason == "bad_input_row"


def test_a_link_is_named(tmp_path):
    link = tarfile.TarInfo("1.src_img.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    path = written(tmp_path, tar_of((link, b""), *edit("1")[1:]))
    with pytest.raises(InputError, match=r"member '1\.src_img\.png' is a symbolic link"):
        read(path)


BYTES = [png(1), png(2)]
TEXTS = [["a"], ["b"]]


def table(**columns):
    return pa.table({"src_img": BYTES, "edited_img": BYTES[::-1], "edited_prompt_list": TEXTS} | columns)


@pytest.mark.parametrize(
    "columns",
    [
        {"src_img": pa.array(BYTES, pa.large_binary())},
        {"src_img": pa.array(BYTES).dictionary_encode()},
        {"src_img": [{"bytes": data, "path": "x.png"} for data in BYTES]},
        {"edited_prompt_list": ["a", "b"]},
        {"edited_prompt_list": pa.array(["a", "b"]).dictionary_encode()},
        {"edited_prompt_list": pa.array(TEXTS, pa.large_list(pa.large_string()))},
        {"o_score": pa.nulls(2)},
    ],
    ids=["large", "dictionary", "struct", "text", "words", "large list", "no scores"],
)
def test_columns_of_other_types_that_hold_the_same_are_read(tmp_path, columns):
    pq.write_table(table(**columns), tmp_path / "e.parquet")
    assert greys_of(read(tmp_path / "e.parquet")) == [[1, 2], [2, 1]]


@pytest.mark.parametrize(
    ("columns", "field"),
    [
        ({"src_img": ["a.png", "b.png"]}, "src_img"),
        ({"src_img": [BYTES, BYTES]}, "src_img"),
        ({"edited_img": [{"path": "../secret.png"}] * 2}, "edited_img"),
        ({"edited_img": [1, 2]}, "edited_img"),
        ({"edited_prompt_list": [1, 2]}, "edited_prompt_list"),
        ({"edited_prompt_list": [{"text": "a"}] * 2}, "edited_prompt_list"),
        ({"caption": [["a"], ["b"]]}, "caption"),
        ({"o_score": [[1.0], [2.0]]}, "o_score"),
    ],
)
def test_columns_of_a_wrong_type_are_named(tmp_path, columns, field):
    pq.write_table(table(**columns), tmp_path / "e.parquet")
    with pytest.raises(InputError, match=r"e\.parquet: the column holds ") as refused:
        read(tmp_path / "e.parquet")
    assert refused.value.field == field


def test_pages_of_many_images_are_let_go_before_the_next_columns_is_read(tmp_path, monkeypatch):
    """Each column of this file is one page of 30 MB; compressed and unpacked it is in memory twice, and once only."""
    monkeypatch.setattr("pipelines.prompts.edit_parquet._MAX_PAGE_BYTES", 2**22)
    monkeypatch.setattr("pipelines.prompts.edit_parquet._WINDOW_BYTES", 2**22)
    rng, number = np.random.default_rng(0), 30
    images = {name: [rng.bytes(2**20) for _ in range(number)] for name in ("src_img", "edited_img")}
    whole = pa.table(images | {"edited_prompt_list": [[str(i)] for i in range(number)]})
    pq.write_table(whole, tmp_path / "e.parquet", row_group_size=number)
    del whole
    rows = read(tmp_path / "e.parquet")
    most, reader, before = 0, EditReader(), pa.total_allocated_bytes()

    def watched(cell):
        nonlocal most
        most = max(most, pa.total_allocated_bytes() - before)
        return _num_bytes(cell)

    monkeypatch.setattr("pipelines.prompts.edit_parquet._num_bytes", watched)
    order = [*range(number), 3, 29, 0]
    edits = [row.edit for row in rows if row.edit is not None]
    for i in order:
        assert reader.read_images(edits[i]) == (images["src_img"][i], images["edited_img"][i])
    assert 30e6 < most < 80e6
    assert pa.total_allocated_bytes() - before < 10e6
