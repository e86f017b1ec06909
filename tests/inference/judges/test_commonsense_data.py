"""CommonsenseT2I's file in every form that it is published or handed on in, and files of expanded prompts."""

import csv
import json

import pyarrow
import pyarrow.parquet
import pytest

from inference.judges.commonsense_data import read_expanded, read_pairs
from inference.judges.commonsense_t2i import CommonsensePair
from schemas.errors import InputError

ROWS = [
    {
        "prompt1": "a lit lamp",
        "prompt2": "a lamp",
        "description1": "light\nbright",
        "description2": "no light",
        "category": "x",
        "likelihood": 5,
    },
    {"prompt1": "ice", "prompt2": "water", "description1": "solid", "description2": "flowing"},
]
LISTED = json.dumps(ROWS, indent=4)
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
WRITTEN = {
    "data.json": LISTED,
    "lines.json": LINES,
    "data.jsonl": LINES,
    "list.jsonl": json.dumps(ROWS),
    "gaps.jsonl": "\n" + LINES.replace("\n", "\r\n\n"),
    "by_number.json": json.dumps({"1": ROWS[0], "2": ROWS[1]}, indent=1),
    "split.json": json.dumps({"train": ROWS}, indent=1),
    "viewer.json": json.dumps(
        {
            "features": [{"name": "prompt1", "type": {"dtype": "string"}}],
            "rows": [{"row_idx": i, "row": row, "truncated_cells": []} for i, row in enumerate(ROWS)],
        }
    ),
}


@pytest.mark.parametrize("name", [*WRITTEN, "pairs.csv", "pairs.parquet", "PAIRS.PARQUET", "folder"])
def test_the_benchmarks_file_reads_in_every_form(tmp_path, name):
    path = tmp_path / name
    if name == "folder":
        (path / "data").mkdir(parents=True)
        (path / "README.md").write_text("a card")
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path / "data" / "train-00000-of-00001.parquet")
    elif name.endswith("csv"):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(ROWS[0]))
            writer.writeheader()
            writer.writerows(ROWS)
    elif name in WRITTEN:
        path.write_text(WRITTEN[name])
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    first, second = read_pairs(path)
    assert first == CommonsensePair(("a lit lamp", "a lamp"), ("light, bright", "no light"), "x", "5")
    assert (second.prompts, second.category, second.likelihood) == (("ice", "water"), "all", "")


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv"])
def test_a_file_may_begin_with_a_byte_order_mark(tmp_path, suffix):
    path = tmp_path / f"pairs.{suffix}"
    row = ROWS[1] | {"description1": "light\u2028here"}
    if suffix == "csv":
        text = ",".join(row) + "\n" + ",".join(f'"{value}"' for value in row.values()) + "\n"
    else:
        text = json.dumps(row, ensure_ascii=False)
    path.write_text("\ufeff" + text, encoding="utf-8")
    assert read_pairs(path)[0].prompts == ("ice", "water")


BROKEN = ROWS[1] | {"description2": " "}


@pytest.mark.parametrize(
    ("name", "text", "line", "field", "says"),
    [
        ("a.jsonl", json.dumps(ROWS[0]) + "\n\n" + json.dumps(BROKEN) + "\n", 3, "description2", "row 2: no text"),
        ("a.json", json.dumps([ROWS[0], BROKEN], indent=2), 10, "description2", "row 2: no text"),
        ("a.json", json.dumps({"x": ROWS[0], "y": BROKEN}), None, "description2", "row 2: no text"),
        ("a.json", json.dumps([ROWS[0], 5]), 1, None, "5 is no row"),
        ("a.json", json.dumps([ROWS[1] | {"prompt1": 7}]), 1, "prompt1", "7 is no text"),
        ("a.json", json.dumps([ROWS[1] | {"prompt1": "a\x00b"}]), 1, "prompt1", "control character"),
        ("a.json", LISTED.replace('"ice",', '"ice"'), 12, None, "not valid JSON"),
        ("a.jsonl", json.dumps(ROWS[0]) + "\n{\n", 2, None, "not valid JSON"),
        ("a.csv", "prompt1,prompt2\nice,water\n", 2, "description1", "no text"),
        ("a.json", "{}", None, "prompt1", "no text"),
        ("a.json", "", None, None, "no pairs"),
        ("a.json", "[]", None, None, "no pairs"),
        ("a.txt", "x", None, None, "unknown kind"),
        ("a.parquet", "PAR1", None, None, "does not read"),
    ],
)
def test_what_is_wrong_is_named_by_file_line_and_field(tmp_path, name, text, line, field, says):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError, match=says) as caught:
        read_pairs(path)
    assert (caught.value.line, caught.value.field) == (line, field)
    assert str(path) in str(caught.value)


def test_what_is_no_file_is_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_pairs(tmp_path / "gone.jsonl")
    with pytest.raises(InputError, match="a folder with 0 files"):
        read_pairs(tmp_path)
    (tmp_path / "a.json").write_bytes(b'[{"prompt1": "\xff"}]')
    with pytest.raises(InputError, match="UTF-8"):
        read_pairs(tmp_path / "a.json")


def test_expanded_prompts_are_read_from_the_named_fields_in_the_order_of_the_data(tmp_path):
    (tmp_path / "data.json").write_text(LISTED)
    pairs = read_pairs(tmp_path / "data.json")
    rows = [row | {"expanded1": f"more {row['prompt1']}", "expanded2": "b", "gpt": "c", "gpt2": "d\ne"} for row in ROWS]
    path = tmp_path / "more.json"
    path.write_text(json.dumps(rows))
    assert read_expanded(path, pairs) == [("more a lit lamp", "b"), ("more ice", "b")]
    assert read_expanded(path, pairs, ("gpt", "gpt2")) == [("c", "d, e")] * 2
    assert read_expanded(path, pairs, ("prompt2", "prompt1"))[1] == ("water", "ice")
    with pytest.raises(InputError, match="no text") as caught:
        read_expanded(path, pairs, ("gpt", "nothing"))
    assert caught.value.field == "nothing"
    path.write_text(json.dumps(rows[:1]))
    with pytest.raises(InputError, match="1 rows"):
        read_expanded(path, pairs)
    path.write_text(json.dumps(rows[::-1]))
    with pytest.raises(InputError, match="row 1 is of 'ice'"):
        read_expanded(path, pairs)
