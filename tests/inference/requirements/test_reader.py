"""What a VLM reads in a free prompt: clauses that rules can check, questions for the rest, and what happens to answers
that do not read."""

import json
from typing import Any, cast

import pytest

from inference.requirements.atoms import atoms_of
from inference.requirements.read_answer import MAX_ATOMS, answer_schema, read_answer
from inference.requirements.reader import RequirementsConfig, RequirementsReader, read_requirements
from inference.vlm.prompts import load_prompt
from inference.vlm.strict_schema import strict_schema
from inference.vlm.vlm import VlmConfig
from schemas.errors import InputError
from schemas.foreign_json import BadValue
from schemas.records import Cost, ObjectClause, PromptRecord, Question
from tests.support.openai_server import strict_problems
from tests.support.vlm_rows import ScriptedVlm

TEMPLATE = load_prompt("requirements")


def answered(include: Any = (), questions: Any = ()) -> str:
    return json.dumps({"include": list(include), "questions": list(questions)})


def read(include: Any = (), questions: Any = ()) -> PromptRecord:
    return read_answer(answered(include, questions), "a prompt")


def reader(say, max_attempts=3) -> RequirementsReader:
    return RequirementsReader(cast(Any, ScriptedVlm(say)), TEMPLATE, max_attempts)


def free(*texts):
    return [PromptRecord(f"p{number}", text, "rule") for number, text in enumerate(texts)]


def test_clauses_stay_clauses_and_a_number_of_objects_excludes_one_more():
    record = read(
        [
            {"class": "A Ring", "color": None, "count": None},
            {"class": "stars", "count": 2, "color": "Red", "position": ["to the left of", 0]},
        ],
        [{"question": "Is it night?", "answer": "yes."}, {"question": "How many moons are there?", "answer": 3}],
    )
    assert record.include == (ObjectClause("ring"), ObjectClause("star", 2, "red", "left of", 0))
    assert record.exclude == (ObjectClause("star", 3),)
    assert record.questions == (Question("Is it night?"), Question("How many moons are there?", "three"))
    assert (record.requirements_from, record.requirements_note) == ("vlm", None)


def test_a_class_that_two_clauses_count_excludes_nothing():
    both = read([{"class": "star", "count": 2, "color": "red"}, {"class": "star", "count": 3, "color": "blue"}])
    assert (len(both.include), both.exclude) == (2, ())


@pytest.mark.parametrize(
    ("clauses", "kept", "questions"),
    [
        ([{"class": "cat", "color": "teal"}], [ObjectClause("cat")], ["Is the cat teal?"]),
        (
            [{"class": "tree"}, {"class": "fox", "count": 2, "position": ["behind", 0]}],
            [ObjectClause("tree"), ObjectClause("fox", 2)],
            ["Are the foxes behind the tree?"],
        ),
        ([{"class": "old man who mends a net"}], [], ["Does the image show an old man who mends a net?"]),
        ([{"class": "狐", "color": "red"}], [], ["Does the image show a red 狐?"]),
        ([{"class": "star", "count": 40}], [], ["Does the image show 40 stars?"]),
        (
            [{"class": "bird of paradise in flight"}, {"class": "cat", "position": ["left of", 0]}],
            [ObjectClause("cat")],
            [
                "Does the image show a bird of paradise in flight?",
                "Is the cat left of the bird of paradise in flight?",
            ],
        ),
        ([{"class": "cat"}, {"class": "cat"}], [ObjectClause("cat")], []),
    ],
)
def test_what_no_rule_can_check_becomes_a_question(clauses, kept, questions):
    record = read(clauses)
    assert list(record.include) == kept
    assert [question.text for question in record.questions] == questions
    assert {question.answer for question in record.questions} <= {"Yes"}


def test_what_must_not_be_there_is_asked_for_with_no():
    assert read([{"class": "people", "count": 0}]).questions == (Question("Does the image show any people?", "No"),)


def test_positions_follow_their_objects_where_others_leave_the_list():
    names = ("ball", "a thing nobody can detect", "ball", "cat")
    record = read([*({"class": name} for name in names), {"class": "dog", "position": ["above", 3]}])
    assert record.include == (ObjectClause("ball"), ObjectClause("cat"), ObjectClause("dog", 1, None, "above", 1))


def test_questions_stand_once_and_no_prompt_has_more_than_sixteen_atoms():
    many = [{"question": f"Is number {n} there?", "answer": "Yes"} for n in range(30)]
    assert read([], many[:3] * 2).questions == tuple(Question(one["question"]) for one in many[:3])
    record = read([{"class": "star", "count": 2, "color": "red"}], many)
    assert len(atoms_of(record)) == MAX_ATOMS
    assert record.requirements_note == "the first 16 of 32 requirements"
    clauses = read([{"class": f"toy {n}", "count": 2, "color": "red"} for n in range(12)])
    assert (len(clauses.include), len(clauses.exclude), len(atoms_of(clauses))) == (8, 8, 16)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("", "an empty answer"),
        ("I'm sorry, but I can't help with that.", "a refusal"),
        ("<think>What could it be?", "thoughts without an answer"),
        ('{"include": [{"class": "tow', "not valid JSON"),
        ("[1]", "is no object"),
        ("{}", "an empty answer"),
        ('{"include": null, "objects": null}', "unknown key"),
        ('{"objects": []}', "unknown key 'objects'"),
        ('{"include": {"class": "cat"}}', "is no list"),
        ('{"include": ["cat"]}', "is no object"),
        ('{"include": [{"count": 2}]}', "an object has no class"),
        ('{"include": [{"class": 5}]}', "is no text"),
        ('{"include": [{"class": "cat", "count": "many"}]}', "is no number of objects"),
        ('{"include": [{"class": "cat", "count": true}]}', "is no number of objects"),
        ('{"include": [{"class": "cat", "position": ["left of", 0]}]}', "names no earlier one"),
        ('{"include": [{"class": "cat", "position": "left"}]}', "is no position"),
        ('{"include": [{"class": "cat\\u0007"}]}', "control character"),
        ('{"questions": [{"question": "", "answer": "Yes"}]}', "no question is asked"),
        ('{"questions": [{"answer": "Yes"}]}', "no question is asked"),
        ('{"questions": [{"question": "What colour?", "answer": "blue"}]}', "neither yes nor no nor a number"),
        ('{"questions": ["Is it?"]}', "is no object"),
        (json.dumps({"questions": [{"question": "x" * 501, "answer": "Yes"}]}), "has 501 characters"),
    ],
)
def test_answers_of_another_form_do_not_read(answer, problem):
    with pytest.raises(BadValue, match=problem):
        read_answer(answer, "a prompt")


def test_any_text_goes_into_the_template_and_comes_out_as_it_was():
    texts = [
        'a "quoted" {prompt}',
        "two\nlines {",
        "}{",
        "بحر",
        "雨🦊",
        "x" * 2000,
        'Ignore this. {"include": []}',
        "\\1 \\g<0>",
    ]
    vlm = ScriptedVlm(lambda request: answered([{"class": "cat"}]))
    read_requirements(RequirementsReader(cast(Any, vlm), TEMPLATE), free(*texts))
    before, after = TEMPLATE.split("{prompt}")
    assert [request.text for request in vlm.requests] == [before + text + after for text in texts]


def test_equal_prompts_are_read_once_and_those_that_say_enough_never():
    said = PromptRecord("p9", "a photo of a star", "rule", "single_object", (ObjectClause("star"),))
    asks = reader(lambda request: answered([{"class": "fox"}]))
    records = [*free("a fox", "a fox"), said]
    (first, paid), (second, nothing), (third, none) = read_requirements(asks, records)
    assert (first.prompt_id, second.prompt_id) == ("p0", "p1")
    assert first.include == second.include == (ObjectClause("fox"),)
    assert third is said
    assert (paid, nothing, none) == (Cost(vlm_calls=1, vlm_prompt_tokens=10, vlm_completion_tokens=5), Cost(), Cost())
    assert read_requirements(asks, [said]) == [(said, Cost())]


def test_an_answer_that_does_not_read_is_asked_for_again_and_then_the_prompt_is_one_question():
    (second, cost), (whole, all_cost), (none, _) = read_requirements(
        reader(lambda request: {"a": ["{", answered([{"class": "cat"}])], "b": "No.", "c": answered()}[word(request)]),
        free("a", "b", "c"),
    )
    assert (second.include, second.requirements_note, cost.vlm_calls) == ((ObjectClause("cat"),), None, 2)
    assert (whole.questions, whole.requirements_from) == ((Question("Does the image show: b?"),), "fallback")
    assert whole.requirements_note == (
        "the VLM was asked what this prompt requires, and none of its 3 answers can be used: the answer is not valid "
        "JSON"
    )
    assert all_cost.vlm_calls == 3
    assert (none.questions, none.requirements_from) == ((Question("Does the image show: c?"),), "vlm")
    assert none.requirements_note == "the VLM finds nothing in this prompt that could be checked piece by piece"


def word(request) -> str:
    return request.text.split("-----\n")[1].strip()


def test_the_schema_is_one_that_strict_servers_take_and_the_template_s_examples_read():
    schema = strict_schema(json.loads(answer_schema()))
    assert strict_problems(schema) == []
    examples = [line for line in TEMPLATE.splitlines() if line.startswith('{"')]
    assert len(examples) == 5
    assert [len(atoms_of(read_answer(example, "x"))) for example in examples] == [4, 5, 6, 3, 1]
    assert "ring" in {clause.class_name for clause in read_answer(examples[0], "x").include}


def test_who_reads_is_the_run_s_vlm_unless_another_is_named():
    vlm, own = VlmConfig(model="a"), VlmConfig(model="b")
    assert RequirementsConfig("vlm").only_what_is_used(vlm).vlm == vlm
    assert RequirementsConfig("vlm", own).only_what_is_used(vlm).vlm == own
    assert RequirementsConfig("none", own, max_attempts=2).only_what_is_used(vlm) == RequirementsConfig()
    assert RequirementsConfig("whole", own).only_what_is_used(vlm) == RequirementsConfig()
    assert RequirementsConfig().open() is RequirementsConfig("whole").open() is None
    with pytest.raises(InputError, match="at least 1"):
        RequirementsConfig(max_attempts=0)
