"""Absent is absent in every reader of a user's files: no text "None", no score of NaN."""

import io
import json
import math
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inference.judges.commonsense_data import read_pairs
from inference.judges.known_words import KnownWords
from inference.requirements.clauses import parse_include
from pipelines.geneval_folder import read_official
from pipelines.prompts.edit_files import EditIntake, EditQuality, instruction_of, iterate_edits
from pipelines.prompts.read_prompts import read_prompts
from schemas.absent import is_absent, score_of
from schemas.errors import CorruptDataError, InputError
from schemas.foreign_json import BadValue
from schemas.records import ObjectClause, Reason
from tests.support.plain_shards import write_shards
from trainers.comparison_shards import ComparisonMembers
from trainers.concept_file import read_concept
from trainers.shard_index import SampleReader, open_index
from trainers.text_pairs import read_text_pairs

ABSENT = [None, math.nan, "", " \n", "null", "NULL", "None", "nan", "NaN", "N/A", "<NA>", '"null"', "\ufeff"]
WORDS = [one for one in ABSENT if isinstance(one, str)]


@pytest.mark.parametrize("value", ABSENT)
def test_what_is_absent(value):
    assert is_absent(value)
    assert score_of(value) is None


@pytest.mark.parametrize("value", ["nano", "none of it", "a", "0", 0, 0.0, False, [], "NaN bread"])
def test_what_is_not_absent(value):
    assert not is_absent(value)


@pytest.mark.parametrize("value", [math.inf, -math.inf, "inf", "much", [], {}, True, 10**400, "1e999"])
def test_what_is_no_score(value):
    with pytest.raises(ValueError, match="number"):
        score_of(value)


@pytest.mark.parametrize("none", ABSENT)
def test_an_absent_instruction_is_none_and_the_next_one_counts(none):
    assert instruction_of([none, "Paint it."]) == "Paint it."
    assert instruction_of(json.dumps([none, "Paint it."])) == "Paint it."
    for cell in (none, [none], [none, none], [], json.dumps([none])):
        with pytest.raises(BadValue, match="no instruction"):
            instruction_of(cell)


@pytest.mark.parametrize("cell", [[5], [{"a": 1}], [True], [["Paint it."]], 7])
def test_an_instruction_that_is_no_text_is_none(cell):
    with pytest.raises(BadValue, match="no instruction"):
        instruction_of(cell)


def edits_of(path, rows, skip=True):
    pq.write_table(pa.Table.from_pylist(rows), path)
    counts = EditIntake()
    return list(iterate_edits(str(path), EditQuality(), counts, skip)), counts


def edit(**values):
    scores = dict.fromkeys(("sc_score_1", "sc_score_2", "pq_score", "o_score"), 10.0)
    return {"src_img": b"x", "edited_img": b"y", "edited_prompt_list": ["Paint it."], "caption": None} | scores | values


def test_scores_of_nan_ask_nothing_and_captions_that_are_none_are_written(tmp_path):
    rows, counts = edits_of(
        tmp_path / "a.parquet",
        [edit(sc_score_1=math.nan, pq_score=math.nan), edit(caption="nan"), edit(caption="N/A", o_score=math.nan)],
    )
    assert counts.num_below_quality == 0
    assert [row.prompt.text for row in rows] == ["Paint it."] * 3
    (bad,), _ = edits_of(tmp_path / "b.parquet", [edit(pq_score=math.inf)])
    assert bad.rejection.reason == Reason.BAD_INPUT_ROW
    with pytest.raises(InputError, match="no instruction"):
        edits_of(tmp_path / "c.parquet", [edit(edited_prompt_list=[None, "nan"])], skip=False)


@pytest.mark.parametrize("none", ABSENT)
def test_a_prompt_that_is_absent_is_a_bad_row_and_an_absent_field_none(tmp_path, none):
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": none}, {"prompt": none, "text": "a cat", "id": none, "tag": none, "include": none}]
    path.write_text("".join(json.dumps(row).replace("NaN", "null") + "\n" for row in rows))
    bad, good = read_prompts(path, "general", skip_bad_rows=True)
    assert bad.rejection.reason == Reason.BAD_INPUT_ROW
    assert (good.prompt.text, good.prompt.tag) == ("a cat", None)
    columns = {"prompt": [none, "a dog"], "text": ["a cat", none], "tag": [none, none]}
    table = {k: pa.array(v, pa.string(), from_pandas=True) for k, v in columns.items()}
    pq.write_table(pa.table(table), tmp_path / "prompts.parquet")
    found = read_prompts(tmp_path / "prompts.parquet", "general")
    assert [(row.prompt.text, row.prompt.tag) for row in found] == [("a cat", None), ("a dog", None)]


def test_a_line_of_a_text_file_that_says_nothing_is_named(tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat\nnan\n")
    with pytest.raises(InputError, match=r"prompts.txt:2.*no prompt"):
        list(read_prompts(tmp_path / "prompts.txt", "general"))


@pytest.mark.parametrize("none", ABSENT)
def test_a_clause_s_absent_fields_are_none(none):
    found = parse_include([{"class": "cat", "count": none, "color": none, "position": none}], KnownWords())
    assert found == (ObjectClause("cat"),)


@pytest.mark.parametrize("none", WORDS)
def test_a_shard_s_reflection_that_says_nothing_is_none_and_its_prompt_is_missed(tmp_path, none):
    write_shards(tmp_path / "a", ["rule"], reflection=none)
    assert SampleReader().read(open_index(str(tmp_path / "a")), 0).reflection == ""
    write_shards(tmp_path / "b", ["rule"], prompt=none)
    with pytest.raises(CorruptDataError, match="no prompt"):
        SampleReader().read(open_index(str(tmp_path / "b")), 0)


@pytest.mark.parametrize("none", ABSENT)
def test_trainers_pairs_and_concepts_and_judges_files(tmp_path, none):
    row = {"long": "two red stars", "short": none}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError, match="no text 'short'"):
        read_text_pairs(str(tmp_path / "pairs.jsonl"), "long", "short")
    fields = {"prompt1": "a", "prompt2": "b", "description1": "c", "description2": "d"}
    (tmp_path / "pairs.json").write_text(json.dumps([{**fields, "category": none}]))
    assert [pair.category for pair in read_pairs(tmp_path / "pairs.json")] == ["all"]
    (tmp_path / "pairs.json").write_text(json.dumps([{**fields, "description2": none}]))
    with pytest.raises(InputError, match="no text"):
        read_pairs(tmp_path / "pairs.json")
    concept = {"name": "a", "prompt": none, "qa_pairs": [{"question": "Is it?"}]}
    (tmp_path / "a.yaml").write_text(json.dumps(concept).replace("NaN", ".nan"))
    with pytest.raises(InputError, match="no text"):
        read_concept(tmp_path / "a.yaml")
    members = {"prompt.txt": b"a star", "json": json.dumps({"instructions": [none, "Paint it."]}).encode()}
    assert ComparisonMembers().text("instructions", members) == "Paint it."


def test_a_question_s_answer_may_be_none(tmp_path):
    concept = {"name": "a", "prompt": "a star", "qa_pairs": [{"question": "Which cats?", "answer": "None"}]}
    (tmp_path / "a.yaml").write_text(json.dumps(concept))
    assert read_concept(tmp_path / "a.yaml").questions[0].answer == "None"


@pytest.mark.parametrize("correct", [None, math.nan, "false", 1])
def test_a_verdict_that_is_none_is_named(tmp_path, correct):
    (tmp_path / "results.jsonl").write_text(json.dumps({"filename": "a/b/c.png", "correct": correct}))
    with pytest.raises(InputError, match="neither true nor false"):
        read_official(tmp_path / "results.jsonl", ["a/b/c.png"])


def test_an_edit_tar_s_nan_asks_nothing(tmp_path):
    values = json.dumps({"edited_prompt_list": [None, "Paint it."], "pq_score": math.nan})
    with tarfile.open(tmp_path / "edits.tar", "w") as tar:
        for name, body in (("0.src_img.png", b"x"), ("0.edited_img.png", b"y"), ("0.json", values.encode())):
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    (row,) = iterate_edits(str(tmp_path / "edits.tar"), EditQuality(), EditIntake())
    assert row.prompt.text == "Paint it."
