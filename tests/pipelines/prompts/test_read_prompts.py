import json
import re
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.judges.known_words import KnownWords
from pipelines.prompts.read_prompts import BadRow, Known, iterate_prompts, read_prompts
from schemas.arrow import from_table, to_table
from schemas.errors import InputError
from schemas.records import ObjectClause, PromptRecord, PromptRow, Reason

CAT = {"class": "cat", "count": 1}
JSON_ROWS = st.dictionaries(
    st.sampled_from(["prompt", "text", "id", "tag", "include", "exclude", "other"]),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=5)
        | st.sampled_from(["x", "colors"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["class", "count", "color", "position"]), inner, max_size=4)
        ),
        max_leaves=8,
    ),
    max_size=5,
)


def file_of(tmp_path, *rows, name="prompts.jsonl"):
    """Rows as lines: bytes and str as they are, anything else as JSON."""
    lines = [
        row if isinstance(row, bytes) else (row if isinstance(row, str) else json.dumps(row)).encode() for row in rows
    ]
    path = tmp_path / name
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def records(path, subset="general", **options):
    return [row.prompt for row in read_prompts(path, subset, **options)]


def texts(path, subset="general"):
    return [record.text for record in records(path, subset)]


# ---- what is accepted


def test_a_text_file_holds_a_prompt_a_line(tmp_path):
    path = file_of(tmp_path, "a cat", "", "  a dog, sleeping ", "   ", "🙂 e\u0301 漢字", name="p.txt")
    assert records(path) == [
        PromptRecord("general-000000", "a cat", "general"),
        PromptRecord("general-000001", "a dog, sleeping", "general"),
        PromptRecord("general-000002", "🙂 e\u0301 漢字", "general"),
    ]


@pytest.mark.parametrize("name", ["p.txt", "p.jsonl", "P.TXT"])
def test_bom_windows_line_ends_and_a_missing_last_line_end_are_fine(tmp_path, name):
    lines = ["a cat", "a dog"] if name.lower().endswith("txt") else ['{"prompt": "a cat"}', '{"prompt": "a dog"}']
    path = tmp_path / name
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert texts(path) == ["a cat", "a dog"]


LINE_BREAKS = ["\\n", "\\r\\n", "\\t", "\\u2028", "\\u2029", "\\u0085", " \\n\\n ", "\u2028", "\x85"]


@pytest.mark.parametrize("line_break", LINE_BREAKS)
def test_line_breaks_within_a_prompt_are_spaces(tmp_path, line_break):
    path = file_of(tmp_path, f'{{"prompt": "a cat{line_break}on a mat"}}')
    assert texts(path) == ["a cat on a mat"]


def test_ids_may_be_whole_numbers(tmp_path):
    path = file_of(tmp_path, *({"prompt": f"cat {i}", "id": i} for i in (7, 0, 12)), {"prompt": "x", "id": "8"})
    assert [record.prompt_id for record in records(path)] == ["7", "0", "12", "8"]
    columns = {"prompt": ["a", "b", "c"], "id": pa.array([7.0, None, float("nan")])}
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    assert [record.prompt_id for record in records(tmp_path / "p.parquet")] == ["7", "general-000001", "general-000002"]
    with pytest.raises(InputError, match="'7' is already the id of the prompt on line 1"):
        records(file_of(tmp_path, {"prompt": "a", "id": 7}, {"prompt": "b", "id": "7"}))


def test_jsonl_takes_prompt_or_text_and_ignores_what_it_does_not_know(tmp_path):
    path = file_of(
        tmp_path, {"prompt": "a cat", "id": "cat_1", "source": "x"}, {"text": "a dog", "tag": None, "id": None}
    )
    assert records(path, "length") == [
        PromptRecord("cat_1", "a cat", "length"),
        PromptRecord("length-000001", "a dog", "length"),
    ]


def test_geneval_rows_become_clauses(tmp_path):
    path = file_of(
        tmp_path,
        {"tag": "position", "include": [CAT, {"class": "dog", "count": 1, "position": ["left of", 0]}], "prompt": "x"},
        {
            "tag": "counting",
            "include": [{"class": "cat", "count": 3}],
            "exclude": [{"class": "cat", "count": 4}],
            "prompt": "y",
        },
        {"tag": "colors", "include": [{"class": "cat", "color": "red"}], "prompt": "z"},
    )
    known = Known(KnownWords(frozenset({"cat", "dog"}), frozenset({"red"})))
    first, second, third = records(path, "rule", known=known)
    assert (first.tag, first.include) == ("position", (ObjectClause("cat"), ObjectClause("dog", 1, None, "left of", 0)))
    assert (second.include, second.exclude) == ((ObjectClause("cat", 3),), (ObjectClause("cat", 4),))
    assert third == PromptRecord(
        "rule-000002", "z", "rule", "colors", (ObjectClause("cat", 1, "red"),), requirements_from="file"
    )


def test_a_prompt_may_be_as_long_as_the_limit(tmp_path):
    path = file_of(tmp_path, {"prompt": "漢" * 2000})
    assert texts(path) == ["漢" * 2000]
    assert len(records(file_of(tmp_path, "x" * 5000, name="p.txt"), max_chars=5000)[0].text) == 5000


# ---- what is not: line, field and expectation of each


def including(*clauses, **fields):
    return json.dumps({"prompt": "x", "include": clauses, **fields}).encode()


def placed(position):
    return {**CAT, "position": position}


BAD_JSONL = [
    (b'{"prompt": "x"', None, "not valid JSON"),
    (b'["x"]', None, "no JSON object"),
    (b'"x"', None, "no JSON object"),
    (b"[" * 20000, None, "nested too deeply"),
    (b'{"prompt": "x", "prompt": "y"}', "prompt", "occurs twice"),
    (b'{"prompt": "x", "include": [{"class": "cat", "class": "dog"}]}', "class", "occurs twice"),
    (b'{"prompt": "x", "score": NaN}', None, "NaN is no JSON"),
    (b'{"prompt": "x", "score": -Infinity}', None, "Infinity is no JSON"),
    (b'{"prompt": "x", "n": ' + b"9" * 5000 + b"}", None, "not usable JSON"),
    (b'{"prompt": "caf\xe9"}', None, "not valid UTF-8: byte 0xe9 at byte 16"),
    (b'{"id": "a"}', "prompt", "there is no prompt"),
    (b'{"prompt": null}', "prompt", "there is no prompt"),
    (b'{"prompt": "x", "text": "y"}', "text", "they differ"),
    (b'{"prompt": 3}', "prompt", "3 is no text"),
    (b'{"prompt": ["x"]}', "prompt", "is no text"),
    (b'{"prompt": ""}', "prompt", "empty"),
    (b'{"prompt": " \\u3000\\n"}', "prompt", "empty"),
    (b'{"prompt": "a\\u0000b"}', "prompt", "control character U+0000 at character 2"),
    (b'{"prompt": "a\\rb"}', "prompt", "U+000D"),
    (b'{"prompt": "a\\u000bb"}', "prompt", "U+000B"),
    (b'{"prompt": "a\\u001b[31mb"}', "prompt", "U+001B"),
    (b'{"prompt": "\\ud83d x"}', "prompt", "surrogate pair U+D83D"),
    (json.dumps({"prompt": "x" * 100_000}).encode(), "prompt", "100000 characters"),
    (json.dumps({"prompt": "x" * 2_000_000}).encode(), None, "longer than"),
    (b'{"prompt": "x", "id": true}', "id", "True is no usable id"),
    (b'{"prompt": "x", "id": 7.5}', "id", "7.5 is no usable id"),
    (b'{"prompt": "x", "id": ' + b"7" * 65 + b"}", "id", "no usable id"),
    (b'{"prompt": "x", "id": [7]}', "id", "no usable id"),
    (b'{"prompt": "x", "id": ""}', "id", "no usable id"),
    (b'{"prompt": "x", "id": "a b"}', "id", "no usable id"),
    (b'{"prompt": "x", "id": "a\\n"}', "id", "no usable id"),
    (b'{"prompt": "x", "id": "../a"}', "id", "no usable id"),
    (b'{"prompt": "x", "id": "' + b"a" * 65 + b'"}', "id", "no usable id"),
    (b'{"prompt": "x", "tag": "colour"}', "tag", "did you mean 'colors'"),
    (b'{"prompt": "x", "tag": 1}', "tag", "1 is not known"),
    (b'{"prompt": "x", "include": {"class": "cat"}}', "include", "no list"),
    (b'{"prompt": "x", "include": ["cat"]}', "include[0]", "no object"),
    (b'{"prompt": "x", "include": [{"count": 1}]}', "include[0].class", "no class"),
    (b'{"prompt": "x", "include": [{"class": "cta"}]}', "include[0].class", "unknown class 'cta'; did you mean 'cat'"),
    (b'{"prompt": "x", "include": [{"class": 4}]}', "include[0].class", "no text"),
    (b'{"prompt": "x", "include": [{"class": "cat", "colour": "red"}]}', "include[0]", "did you mean 'color'"),
    (b'{"prompt": "x", "include": [{"class": "cat", "color": "redd"}]}', "include[0].color", "did you mean 'red'"),
    (including({"class": "cat", "count": 0}), "include[0].count", "0 is not allowed"),
    (including({"class": "cat", "count": -2}), "include[0].count", "-2 is not allowed"),
    (including({"class": "cat", "count": 17}), "include[0].count", "17 is not allowed"),
    (including({"class": "cat", "count": 1000000000000000000000}), "include[0].count", "not allowed"),
    (including({"class": "cat", "count": 1.0}), "include[0].count", "1.0 is not allowed"),
    (including({"class": "cat", "count": True}), "include[0].count", "True is not allowed"),
    (including({"class": "cat", "count": "2"}), "include[0].count", "'2' is not allowed"),
    (including(*[CAT] * 17), "include", "17 clauses"),
    (including(CAT, placed(["left", 0])), "include[1].position[0]", "left of"),
    (including(CAT, placed(["left of", 1])), "include[1].position[1]", "itself"),
    (including(CAT, placed(["above", 2])), "include[1].position[1]", "index 2"),
    (including(CAT, placed(["above", -1])), "include[1].position[1]", "index -1"),
    (including(CAT, placed(["above", False])), "include[1].position[1]", "False"),
    (including(placed(["above", 1]), CAT), "include[0].position[1]", "earlier"),
    (including(CAT, placed("above")), "include[1].position", "no position"),
    (including(CAT, exclude=[CAT]), "exclude[0].count", "no image can be correct"),
    (b'{"prompt": "x", "exclude": [{"class": "cat", "count": 0}]}', "exclude[0].count", "0 is not allowed"),
    (b'{"prompt": "x", "exclude": [{"class": "cat", "color": "red"}]}', "exclude[0]", "unknown key 'color'"),
]


@pytest.mark.parametrize(("bad", "field", "problem"), BAD_JSONL, ids=[f"{row[1]}-{row[2]}" for row in BAD_JSONL])
def test_a_bad_row_stops_with_file_line_and_field_or_becomes_a_rejection(tmp_path, bad, field, problem):
    path = file_of(tmp_path, {"prompt": "first"}, "", bad, {"prompt": "last"})
    known = Known(KnownWords(frozenset({"cat", "dog"}), frozenset({"red", "blue"})))

    with pytest.raises(InputError) as caught:
        list(read_prompts(path, "general", known))
    error = caught.value
    assert (error.file, error.line, error.field, error.exit_code) == (str(path), 3, field, 2)
    assert problem in error.problem
    assert str(error).startswith(f"{path}:3: ")
    assert len(str(error)) < 1000

    first, rejected, last = read_prompts(path, "general", known, skip_bad_rows=True)
    assert (first.prompt.text, last.prompt.text) == ("first", "last")
    assert (first.active, rejected.active, last.active) == (True, False, True)
    assert (rejected.rejection.stage, rejected.rejection.reason) == ("intake", Reason.BAD_INPUT_ROW.value)
    assert "line 3" in rejected.rejection.detail
    assert len({row.prompt.prompt_id for row in (first, rejected, last)}) == 3
    assert len(rejected.prompt.text) <= 200
    # Whatever was in the row, the rejection can be stored and printed.
    assert from_table(PromptRow, to_table(PromptRow, [rejected])) == [rejected]
    assert not re.search("[\\x00-\\x1f\\x7f-\\x9f\ud800-\udfff]", rejected.prompt.text + rejected.rejection.detail)


def test_the_first_bad_row_stops_before_later_ones_are_read(tmp_path):
    path = file_of(tmp_path, {"prompt": "x"}, "{", "[")
    rows = read_prompts(path, "general")
    assert next(rows).prompt.text == "x"
    with pytest.raises(InputError) as caught:
        next(rows)
    assert caught.value.line == 2


def test_a_duplicate_id_names_the_line_of_the_first(tmp_path):
    path = file_of(tmp_path, {"prompt": "a", "id": "x"}, {"prompt": "b", "id": "y"}, "", {"prompt": "c", "id": "x"})
    with pytest.raises(InputError, match="'x' is already the id of the prompt on line 1") as caught:
        records(path)
    assert (caught.value.line, caught.value.field) == (4, "id")
    kept = records(path, skip_bad_rows=True)
    assert [record.prompt_id for record in kept] == ["x", "y", "general-000002"]


def test_generated_ids_give_way_to_ids_of_the_file(tmp_path):
    path = file_of(
        tmp_path,
        {"prompt": "a", "id": "general-000002"},
        {"prompt": "b", "id": "general-000002-2"},
        {"prompt": "c"},
        {"prompt": "d"},
    )
    expected = ["general-000002", "general-000002-2", "general-000002-3", "general-000003"]
    assert [record.prompt_id for record in records(path)] == expected


def test_an_id_that_an_earlier_row_was_given_is_a_duplicate(tmp_path):
    path = file_of(tmp_path, {"prompt": "a"}, {"prompt": "b", "id": "general-000000"})
    with pytest.raises(InputError, match="line 1"):
        records(path)


def test_a_bad_row_keeps_its_own_id(tmp_path):
    path = file_of(tmp_path, {"prompt": "", "id": "mine"}, {"prompt": "x", "id": "mine"})
    first, second = read_prompts(path, "general", skip_bad_rows=True)
    assert first.prompt.prompt_id == "mine"
    assert "already the id" in second.rejection.detail


@pytest.mark.parametrize(
    ("row", "field"),
    [({"include": [CAT]}, "tag"), ({"tag": "colors"}, "include"), ({"tag": "colors", "include": []}, "include")],
)
def test_rule_prompts_need_tag_and_include(tmp_path, row, field):
    path = file_of(tmp_path, {"prompt": "x", **row})
    with pytest.raises(InputError) as caught:
        records(path, "rule")
    assert (caught.value.line, caught.value.field) == (1, field)
    assert records(path, "general")[0].text == "x"


def test_what_a_rule_prompt_requires_is_told_from_its_words_where_nothing_else_says_it(tmp_path):
    lines = ("a photo of two red circles", "a photo of a star left of a ring")
    for path in (file_of(tmp_path, *lines, name="p.txt"), file_of(tmp_path, *({"prompt": line} for line in lines))):
        counted, placed = records(path, "rule", known=Known(KnownWords(frozenset(("circle", "star", "ring")))))
        assert (counted.tag, counted.subset, counted.prompt_id) == ("counting", "rule", "rule-000000")
        assert counted.include == (ObjectClause("circle", 2, "red"),)
        assert counted.exclude == (ObjectClause("circle", 3),)
        assert (placed.tag, placed.include[1].relation, placed.include[1].relative_to) == ("position", "left of", 0)


@pytest.mark.parametrize(
    ("text", "problem"),
    [("sunset over a lake", "cannot tell"), ("a photo of a cat", "unknown class")],
)
def test_a_rule_prompt_in_no_form_or_with_an_unknown_word_is_named_with_its_line(tmp_path, text, problem):
    path = file_of(tmp_path, "a photo of a star", text, name="p.txt")
    with pytest.raises(InputError, match=problem) as caught:
        records(path, "rule", known=Known(KnownWords(frozenset(["star"]))))
    assert (caught.value.line, caught.value.field) == (2, "prompt")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"a\x07b", "U+0007"),
        (b"a\rb", "U+000D"),
        (b"\xff", "UTF-8"),
        (b"x" * 100_000, "100000 characters"),
    ],
)
def test_bad_lines_of_text_files(tmp_path, line, problem):
    with pytest.raises(InputError, match=re.escape(problem)) as caught:
        records(file_of(tmp_path, b"fine", line, name="p.txt"))
    assert caught.value.line == 2


def test_after_an_endless_line_the_next_line_is_read(tmp_path):
    path = file_of(tmp_path, b"x" * 5_000_000, b"a cat", name="p.txt")
    first, second = iterate_prompts(path, "general")
    assert (first.line, second.text) == (1, "a cat")
    assert isinstance(first, BadRow)


# ---- files that are none


def test_what_is_no_prompt_file_fails_at_the_call(tmp_path):
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "prompts.csv").write_text("prompt\na cat\n")
    (tmp_path / "prompts").write_text("a cat\n")
    (tmp_path / "wide.txt").write_bytes("a cat".encode("utf-16"))
    for name, problem in {
        "folder.txt": "directory",
        "empty.jsonl": "empty",
        "prompts.csv": "'.csv'",
        "prompts": "no suffix",
        "missing.txt": "no such file",
        "wide.txt": "UTF-16",
    }.items():
        with pytest.raises(InputError, match=re.escape(problem)) as caught:
            read_prompts(tmp_path / name, "general")
        assert caught.value.file == str(tmp_path / name)
        assert caught.value.expected


@pytest.mark.parametrize("name", ["p.txt", "p.jsonl"])
def test_a_file_of_blank_lines_holds_no_prompt(tmp_path, name):
    with pytest.raises(InputError, match="no prompt in the file"):
        records(file_of(tmp_path, "", "  ", name=name))


def test_an_unknown_subset_lists_the_known_ones(tmp_path):
    with pytest.raises(InputError, match="'rules'") as caught:
        read_prompts(file_of(tmp_path, "x", name="p.txt"), "rules")
    assert caught.value.expected == "rule, general, length, editing"


# ---- Parquet


def parquet(tmp_path, **columns):
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def test_parquet_takes_clauses_as_structs_or_as_json(tmp_path):
    position = pa.struct([("relation", pa.string()), ("index", pa.int64())])
    clause = pa.struct([("class", pa.string()), ("count", pa.int64()), ("color", pa.string()), ("position", position)])
    include = [
        {"class": "cat", "count": 1},
        {"class": "dog", "count": 1, "position": {"relation": "above", "index": 0}},
    ]
    wanted = (ObjectClause("cat"), ObjectClause("dog", 1, None, "above", 0))
    as_structs = parquet(
        tmp_path, prompt=["x"], tag=["position"], include=pa.array([include], pa.list_(clause)), other=[1.5]
    )
    assert records(as_structs, "rule")[0].include == wanted
    include[1]["position"] = ["above", 0]
    as_json = parquet(tmp_path, text=["x"], tag=["position"], id=["a"], include=[json.dumps(include)])
    assert records(as_json, "rule") == [PromptRecord("a", "x", "rule", "position", wanted, requirements_from="file")]


def test_bad_parquet_rows_are_named_by_row(tmp_path):
    broken = pa.Array.from_buffers(pa.string(), 2, pa.array([b"ok", b"\xff\xfe"]).buffers())
    for columns, line, problem in [
        ({"prompt": ["a", None, "c"]}, 2, "there is no prompt"),
        ({"prompt": ["a", " "]}, 2, "empty"),
        ({"prompt": [1, 2]}, 1, "1 is no text"),
        ({"prompt": [float("nan")]}, 1, "there is no prompt"),
        ({"prompt": ["a", "b"], "id": ["x", "x"]}, 2, "already the id of the prompt on line 1"),
        ({"prompt": ["a"], "include": ["[{"]}, 1, "not valid JSON"),
        ({"prompt": ["a"], "include": [7]}, 1, "7 is no list"),
        ({"prompt": ["a"], "tag": ["colour"]}, 1, "colors"),
        ({"prompt": broken}, 2, "not valid UTF-8"),
    ]:
        path = parquet(tmp_path, **columns)
        with pytest.raises(InputError, match=re.escape(problem)) as caught:
            records(path)
        assert caught.value.line == line
        num_rows = len(columns["prompt"])
        assert len(list(read_prompts(path, "general", skip_bad_rows=True))) == num_rows


def test_parquet_files_that_hold_no_prompts(tmp_path):
    with pytest.raises(InputError, match="no prompt column among 'caption'"):
        records(parquet(tmp_path, caption=["x"]))
    with pytest.raises(InputError, match="no prompt in the file"):
        records(parquet(tmp_path, prompt=pa.array([], pa.string())))
    (tmp_path / "p.parquet").write_bytes(b"PAR1 this is none")
    with pytest.raises(InputError, match="not readable as Parquet"):
        records(tmp_path / "p.parquet")


def test_a_damaged_parquet_page_is_an_input_error(tmp_path):
    path = tmp_path / "p.parquet"
    table = pa.table({"prompt": [f"prompt number {i}" for i in range(5000)]})
    pq.write_table(table, path, compression="zstd", use_dictionary=False, row_group_size=1000)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = b"\x55" * 400
    path.write_bytes(content)
    with pytest.raises(InputError, match="not readable as Parquet"):
        records(path)


# ---- memory


def peak_mb(path):
    tracemalloc.start()
    num = sum(1 for _ in read_prompts(path, "general"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return num, peak / 1e6


def test_memory_does_not_grow_with_a_jsonl_file(tmp_path):
    path = tmp_path / "big.jsonl"
    with open(path, "w") as stream:
        for i in range(8_000):
            stream.write(json.dumps({"prompt": f"{i} " + "a cat on a mat " * 60, "id": f"id-{i}"}) + "\n")
    assert path.stat().st_size > 7e6
    num, peak = peak_mb(path)
    assert num == 8_000
    assert peak < 1.5


def test_memory_does_not_grow_with_a_parquet_file_of_one_row_group(tmp_path):
    path = tmp_path / "big.parquet"
    rows = [f"{i} " + "a cat on a mat " * 60 for i in range(20_000)]
    pq.write_table(pa.table({"prompt": rows}), path, use_dictionary=False, compression="none")
    assert path.stat().st_size > 18e6
    del rows
    before, most, num = pa.total_allocated_bytes(), 0, 0
    for num, _ in enumerate(read_prompts(path, "general"), 1):
        if num % 100 == 0:
            most = max(most, pa.total_allocated_bytes() - before)
    assert num == 20_000
    assert most < 6e6


# ---- anything at all


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.binary(max_size=30) | JSON_ROWS.map(lambda row: json.dumps(row).encode()), min_size=1, max_size=6),
    st.sampled_from(["p.txt", "p.jsonl"]),
    st.sampled_from(["rule", "general"]),
)
def test_no_content_breaks_the_reader_or_loses_a_row(tmp_path, lines, name, subset):
    path = tmp_path / name
    path.write_bytes(b"\n".join(lines))
    num_rows = sum(1 for line in b"\n".join(lines).removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip(b" \t\r"))
    if num_rows == 0 or path.read_bytes()[:2] in (b"\xff\xfe", b"\xfe\xff"):
        with pytest.raises(InputError):
            list(read_prompts(path, subset, skip_bad_rows=True))
        return
    rows = list(read_prompts(path, subset, skip_bad_rows=True))
    assert len(rows) == num_rows
    assert len({row.prompt.prompt_id for row in rows}) == num_rows
    assert from_table(PromptRow, to_table(PromptRow, rows)) == rows
