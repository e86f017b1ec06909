"""Prompt files that say what is required in questions, in GenEval 2's form or ours; and free prompts in files."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inference.judges.known_words import KnownWords
from inference.requirements.reader import RequirementsConfig
from inference.verifier import VerifierConfig
from pipelines.prompts.judgeable import Asked, why_not_judged
from pipelines.prompts.overlap import BenchmarkOverlap, OverlapKind
from pipelines.prompts.read_prompts import Known, numbered_prompts, read_prompts
from pipelines.search_job import SearchJobConfig, asked_prompts, num_unjudged
from recipes import micro
from schemas.errors import InputError
from schemas.records import ObjectClause, Question

VQA = [["How many bicycles are in the image?", "four"], ["Are the bicycles white?", "Yes"]]
ROW = {"prompt": "four white bicycles", "atom_count": 3, "vqa_list": VQA, "skills": ["count", "attribute"]}
ASKED = (Question(VQA[0][0], "four", "count"), Question(VQA[1][0], "Yes", "attribute"))


def lines(tmp_path, *rows) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def searched(path):
    return [record for _, record in numbered_prompts(str(path), Known())]


def test_geneval_2_s_form_and_ours_become_questions_with_their_skills(tmp_path):
    ours = {"prompt": "x", "questions": [{"question": "Is it red?"}, {"question": "How many?", "answer": 2.0}]}
    ours["questions"].append({"question": "Is it wet?", "answer": "No", "skill": "attribute"})
    include = [{"class": "bicycle", "count": 4}]
    first, second, both = searched(lines(tmp_path, ROW, ours, ROW | {"include": include, "skills": None}))
    assert (first.questions, first.requirements_from, first.include, first.is_free) == (ASKED, "file", (), False)
    assert second.questions == (
        Question("Is it red?"),
        Question("How many?", "2"),
        Question("Is it wet?", "No", "attribute"),
    )
    assert both.include == (ObjectClause("bicycle", 4),)
    assert [question.skill for question in both.questions] == [None, None]
    general = next(read_prompts(lines(tmp_path, ROW), "general")).prompt
    assert general.questions == ASKED


@pytest.mark.parametrize("as_json", [True, False])
def test_parquet_holds_them_as_lists_or_as_json(tmp_path, as_json):
    columns = {key: [json.dumps(ROW[key]) if as_json else ROW[key]] for key in ("vqa_list", "skills")}
    pq.write_table(pa.table({"prompt": [ROW["prompt"]], "atom_count": [3], **columns}), tmp_path / "p.parquet")
    assert searched(tmp_path / "p.parquet")[0].questions == ASKED


@pytest.mark.parametrize(
    ("changes", "problem", "field"),
    [
        ({"skills": ["count"]}, "1 skills of 2 questions", "skills"),
        ({"skills": "count"}, "is no list of skills", "skills"),
        ({"skills": [1, 2]}, "1 is no text", "skills[0]"),
        ({"vqa_list": []}, "the list of questions is empty", "vqa_list"),
        ({"vqa_list": "Is it?"}, "is no list", "vqa_list"),
        ({"vqa_list": [["Is it?"]]}, "is no pair", "vqa_list[0]"),
        ({"vqa_list": [["", "Yes"]] * 2}, "is empty", "vqa_list[0][0]"),
        ({"vqa_list": [["Is it?", ["Yes"]]] * 2}, "is no text", "vqa_list[0][1]"),
        ({"vqa_list": [["Is it?", None]] * 2}, "has no answer", "vqa_list[0][1]"),
        ({"vqa_list": [["Is it?", "?"]] * 2}, "has no answer", "vqa_list[0][1]"),
        ({"vqa_list": [["Is it?", True]] * 2}, "True is no text", "vqa_list[0][1]"),
        ({"vqa_list": [["Is it?", "Yes"]] * 65}, "65 questions", "vqa_list"),
        ({"atom_count": "three"}, "is not allowed here", "atom_count"),
        ({"questions": [{"question": "Is it?"}]}, "both questions and vqa_list", "questions"),
        ({"vqa_list": None}, "skills without the questions", "vqa_list"),
        ({"vqa_list": None, "skills": None, "questions": ["Is it?"]}, "is no object", "questions[0]"),
        ({"vqa_list": None, "skills": None, "questions": [{"answer": "Yes"}]}, "no question", "questions[0].question"),
    ],
)
def test_what_is_wrong_with_them_is_named_with_line_and_field(tmp_path, changes, problem, field):
    path = lines(tmp_path, ROW, ROW | changes)
    with pytest.raises(InputError, match=problem) as caught:
        searched(path)
    assert (caught.value.file, caught.value.line, caught.value.field) == (str(path), 2, field)
    good, bad = read_prompts(path, "general", skip_bad_rows=True)
    assert good.rejection is None
    assert bad.rejection is not None
    assert "line 2" in bad.rejection.detail


def test_the_rule_subset_says_what_to_do_with_a_free_prompt_and_the_others_take_it(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a photo of a star\nA steampunk fox writing a letter by candlelight\n")
    with pytest.raises(InputError, match="cannot tell what 'A steampunk fox") as caught:
        list(read_prompts(path, "rule"))
    assert (caught.value.file, caught.value.line, caught.value.field) == (str(path), 2, "prompt")
    for way in ("tag and include beside it", "--detailed-prompts FILE", "search --prompts FILE"):
        assert way in str(caught.value.expected)
    assert [row.rejection is None for row in read_prompts(path, "rule", skip_bad_rows=True)] == [True, False]
    for subset in ("general", "length"):
        assert [row.prompt.is_free for row in read_prompts(path, subset)] == [True, True]
    star, fox = searched(path)
    assert (star.requirements_from, star.tag, fox.is_free, fox.requirements_from) == (
        "grammar",
        "single_object",
        True,
        None,
    )


def test_the_rule_subset_wants_clauses_and_takes_no_questions_for_them(tmp_path):
    with pytest.raises(InputError, match="has no tag"):
        list(read_prompts(lines(tmp_path, ROW), "rule"))


def test_a_benchmark_s_prompt_is_found_whatever_questions_are_beside_it(tmp_path):
    overlap = BenchmarkOverlap.shipped()
    questions = {"questions": [{"question": "Is it there?"}]}
    clauses = {"tag": "single_object", "include": [{"class": "bench"}]}
    same, composed, other = searched(
        lines(tmp_path, {"prompt": "a photo of a bench"} | questions, {"prompt": "x"} | questions | clauses, ROW)
    )
    assert overlap.find(same) is OverlapKind.TEXT
    assert overlap.find(composed) is OverlapKind.COMPOSITION
    assert overlap.find(other) is None


def test_no_detector_s_judge_judges_what_questions_ask_or_a_vlm_said(tmp_path):
    clauses = {"tag": "single_object", "include": [{"class": "bench"}], "prompt": "x"}
    plain, both, questions = searched(lines(tmp_path, clauses, clauses | {"vqa_list": VQA}, ROW))
    assert why_not_judged(plain, KnownWords()) is None
    read, whole = replace(plain, requirements_from="vlm"), replace(questions, requirements_from="fallback")
    said = [why_not_judged(record, KnownWords()) for record in (both, questions, read, whole)]
    assert [one and one.problem for one in said] == [
        "some of what must be seen is said in questions",
        "it says what must be seen in questions alone",
        "a VLM said what it requires",
        "nothing is said of what must be seen",
    ]


FREE = SearchJobConfig(unjudged="count", judge=micro.search().judge, vlm=micro.vlm())


@pytest.fixture
def of_free_prompts(tmp_path) -> SearchJobConfig:
    path = lines(tmp_path, {"prompt": "a photo of a star"}, {"prompt": "love"}, {"prompt": "a teal cat"})
    return replace(FREE, prompts=str(path))


def with_verifier(job, *kinds):
    return replace(job, tools=replace(job.tools, verifier=VerifierConfig(kinds)))


def test_free_prompts_are_searched_without_a_reader_where_nobody_needs_their_requirements(of_free_prompts):
    job = with_verifier(of_free_prompts, "vlm")
    assert num_unjudged(job, asked_prompts(job)) == 2
    assert job.links()["rule"][0].stage.name == "draft_round"


@pytest.mark.parametrize("kind", ["rules", "judge"])
def test_verifiers_of_clauses_say_how_to_go_on(of_free_prompts, kind):
    job = with_verifier(of_free_prompts, kind)
    with pytest.raises(InputError, match=f"2 of 3 prompts cannot be judged by verifier '{kind}'") as caught:
        num_unjudged(job, asked_prompts(job))
    assert "or a verifier that needs no clauses (vlm," in str(caught.value.expected)


def test_requirements_that_are_checked_one_by_one_must_be_said_or_read(of_free_prompts):
    job = with_verifier(of_free_prompts, "atoms")
    asked = asked_prompts(job)
    with pytest.raises(InputError, match="2 of 3 prompts do not say what must be seen, such as 'love'") as caught:
        num_unjudged(job, asked)
    assert (caught.value.file, caught.value.line, caught.value.field) == (job.prompts, 2, "requirements.kind")
    assert "--requirements.kind vlm" in str(caught.value.expected)
    assert num_unjudged(replace(job, requirements=RequirementsConfig("vlm")), asked) == 2
    assert num_unjudged(job, [one for one in asked if not one.record.is_free]) == 0
    assert isinstance(asked[0], Asked)
