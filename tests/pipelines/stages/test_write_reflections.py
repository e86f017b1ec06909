"""Chain-of-thought annotation: what is shown, what is accepted, what is turned down and why."""

import json

import pytest

from microworld.family import micro_vlm
from pipelines.stages.write_reflections import (
    WriteReflections,
    WriteReflectionsConfig,
    problem_of,
    read_verdict,
)
from schemas.errors import InputError
from schemas.records import Reason, Reflection
from tests.support.vlm_rows import ScriptedVlm, paired_row

MICRO = micro_vlm()


def said(result, instruction="Add a red star.", analysis="One shows it."):
    return json.dumps({"Analysis": analysis, "Result": result, "Instructions": instruction})


def brighter(request):
    """The side of the brighter image: the good one."""
    if len(request.images) == 2:
        return "left" if request.images[0].mean() > request.images[1].mean() else "right"
    half = request.images[0].shape[1] // 2
    return "left" if request.images[0][:, :half].mean() > request.images[0][:, half:].mean() else "right"


def stage(say, seed=0, reflects=None, vlm=MICRO, **config):
    made = WriteReflections(WriteReflectionsConfig(vlm, **config), seed)
    made.vlm = ScriptedVlm(say)
    if reflects:
        made.reflector = ScriptedVlm(reflects)
    return made


def test_a_right_verdict_keeps_the_pair_with_analysis_verdict_and_side():
    rows = [paired_row(i) for i in range(40)]
    done = stage(lambda request: said(brighter(request)))(rows)
    reflections = [row.pairs[0].reflection for row in done]
    assert all(row.rejection is None for row in done)
    assert {r.text for r in reflections} == {"Add a red star."}
    assert all(r.verdict == r.good_side and r.analysis and r.annotator == "micro/vlm" for r in reflections)
    sides = [r.good_side for r in reflections]
    assert 10 <= sides.count("left") <= 30  # a fair coin
    assert done[0].cost.vlm_calls == 1
    assert (done[0].cost.vlm_prompt_tokens, done[0].cost.vlm_completion_tokens) == (10, 5)


def test_the_side_is_never_told_and_depends_on_the_seed():
    rows = [paired_row(i) for i in range(30)]
    first, second = stage(lambda r: said(brighter(r)), seed=1), stage(lambda r: said(brighter(r)), seed=2)
    sides = [[row.pairs[0].reflection.good_side for row in s(rows)] for s in (first, second)]
    assert sides[0] != sides[1]
    assert len({request.text for request in first.vlm.requests}) == 1


def test_a_wrong_verdict_rejects_the_pair_but_not_its_neighbour():
    row = paired_row(num_pairs=2)
    verdicts = iter(["wrong", "right"])

    def say(request):
        side = brighter(request)
        return said(side if next(verdicts) == "right" else {"left": "right", "right": "left"}[side])

    (done,) = stage(say)([row])
    assert [p.rejection.reason if p.rejection else None for p in done.pairs] == [Reason.WRONG_VERDICT, None]
    assert done.pairs[0].reflection.verdict != done.pairs[0].reflection.good_side
    assert done.rejection is None
    assert len(done.shipped_pairs) == 1


def test_a_prompt_without_a_pair_left_is_rejected():
    (done,) = stage(lambda r: said({"left": "right", "right": "left"}[brighter(r)]))([paired_row()])
    assert done.rejection.reason == Reason.NO_PAIR_LEFT
    assert done.rejection.detail == "wrong_verdict"


def test_malformed_json_is_asked_again_and_never_guessed():
    def say(request):
        return ["no JSON", '{"Analysis": "cut', said(brighter(request))]

    (done,) = stage(say)([paired_row()])
    assert done.rejection is None
    assert done.cost.vlm_calls == 3
    made = stage(lambda r: "the left one")
    (done,) = made([paired_row()])
    assert done.pairs[0].rejection.reason == Reason.MALFORMED_ANSWER
    assert done.pairs[0].reflection is None
    assert [request.attempt for request in made.vlm.requests] == [0, 1, 2]


def test_only_what_was_malformed_is_asked_again():
    rows = [paired_row(i) for i in range(4)]
    first = rows[2]

    def say(request):
        return said(brighter(request))

    made = stage(lambda r: "no" if len(made.vlm.requests) == 4 and r is made.vlm.requests[2] else say(r))
    done = made(rows)
    assert first.prompt == done[2].prompt
    assert [row.cost.vlm_calls for row in done] == [1, 1, 2, 1]


@pytest.mark.parametrize(
    ("instruction", "reason"),
    [
        ("", Reason.EMPTY_REFLECTION),
        ("No.", Reason.EMPTY_REFLECTION),
        ("No correction needed.", Reason.NOTHING_TO_CORRECT),
        ("the image is right", Reason.NOTHING_TO_CORRECT),
        ("I'm sorry, I can't help with that.", Reason.REFUSED_REFLECTION),
        ("Add a sign that says 'I cannot swim'.", None),
        ("<think>Is the star blue?", Reason.ONLY_REASONING),
        ("Sure! Here is the reflection:", Reason.EMPTY_REFLECTION),
        ("null", Reason.EMPTY_REFLECTION),
        ("None.", Reason.NOTHING_TO_CORRECT),
        ("Ensure that the star is red.", Reason.VAGUE_REFLECTION),
        ("Verify the number of stars.", Reason.VAGUE_REFLECTION),
        ("Replace the blue cross by a blue cross.", Reason.CHANGES_NOTHING),
        ("Change one dog into a dog", Reason.CHANGES_NOTHING),
        ("Replace the blue cross by a blue crossing.", None),
        ("Make the left image red.", Reason.REFLECTION_NAMES_SIDE),
        ("Copy the star of the other image.", Reason.REFLECTION_NAMES_SIDE),
        ("Move the star to the left of the ring.", None),
        ("Replace the left star by a red one.", None),
    ],
)
def test_instructions_that_are_none_are_told(instruction, reason):
    assert problem_of(instruction) == reason


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        said("middle"),
        json.dumps({"Analysis": "a", "Result": "left"}),
        json.dumps({"Analysis": "a", "Result": "left", "Instructions": ["a", "b"]}),
        json.dumps({"Analysis": 1, "Result": "left", "Instructions": "a"}),
        json.dumps({"Analysis": "a", "Result": "left", "Instructions": "a", "Score": 1}),
    ],
)
def test_what_is_no_verdict_is_not_read(text):
    assert read_verdict(text) is None


def test_a_code_fence_and_a_list_of_one_are_read():
    verdict = read_verdict(
        "```json\n" + json.dumps({"Analysis": "a ", "Result": "left", "Instructions": ["b"]}) + "\n```"
    )
    assert (verdict.analysis, verdict.result, verdict.instruction) == ("a", "left", "b")


def test_reasoning_and_control_characters_around_a_verdict_do_not_ship():
    body = {
        "Analysis": "\x1b[1mThe star\x00 is blue.",
        "Result": "left",
        "Instructions": "**Reflection:** Paint it\x07 red.",
    }
    verdict = read_verdict(f'<think>{{"Result": "right"}}</think>Here it is:\n```json\n{json.dumps(body)}\n```\nDone!')
    assert (verdict.analysis, verdict.result) == ("The star is blue.", "left")
    (done,) = stage(lambda r: json.dumps({**body, "Result": json.loads(said(brighter(r)))["Result"]}))([paired_row()])
    assert done.pairs[0].reflection.text == "Paint it red."
    assert read_verdict('{"Analysis": "a", "Result": "left", "Result": "right", "Instructions": "b"}') is None


def test_editing_keeps_the_dataset_s_instruction_unless_told_otherwise():
    given = paired_row(subset="editing", reflection=Reflection("Paint it red.", "dataset"))
    made = stage(lambda r: said(brighter(r)))
    (done,) = made([given])
    assert done.pairs == given.pairs
    assert not made.vlm.requests
    (done,) = stage(lambda r: said(brighter(r)), keep_given=())([given])
    assert done.pairs[0].reflection.text == "Add a red star."


def test_a_share_goes_to_the_chain_of_thought_and_the_rest_to_the_reflector():
    rows = [paired_row(i) for i in range(200)]
    made = stage(
        lambda r: said(brighter(r)), reflects=lambda r: "Paint it.", cot_share=0.3, reflector="micro/reflector"
    )
    done = made(rows)
    compared = [row for row in done if row.pairs[0].reflection.verdict]
    assert 40 <= len(compared) <= 80
    others = [row for row in done if not row.pairs[0].reflection.verdict]
    assert {row.pairs[0].reflection.annotator for row in others} == {"micro/reflector"}
    bad = {request.images[0].mean() for request in made.reflector.requests}
    assert bad == {0.0}  # the bad image alone


def test_a_reflector_that_finds_nothing_is_told_apart_from_one_that_says_nothing(tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("{prompt}")
    made = stage(
        lambda r: "",
        reflects=lambda r: {"0": '{"reflection": "Nothing to correct."}', "1": '{"reflection": ""}'}.get(
            r.text[-1], '{"reflection": "Paint it red."}'
        ),
        cot_share=0.0,
        reflector="some/folder",
        reflector_prompt=str(words),
    )
    done = made([paired_row(n, text=f"star {n}") for n in range(3)])
    reasons = [row.pairs[0].rejection.reason if row.pairs[0].rejection else None for row in done]
    assert reasons == [Reason.NOTHING_TO_CORRECT, Reason.EMPTY_REFLECTION, None]
    assert done[2].pairs[0].reflection.text == "Paint it red."
    assert [row.cost.vlm_calls for row in done] == [1, 3, 1]  # an empty answer is asked for again


def test_without_a_reflector_the_others_keep_what_they_have():
    rule = paired_row(subset="rule", reflection=Reflection("Add a star.", "rule"))
    (done,) = stage(lambda r: "", cot_share=0.0)([rule])
    assert done.pairs == rule.pairs
    assert done.rejection is None


def test_images_are_shown_in_one_grid_or_apart_and_no_larger_than_asked():
    grid, apart = stage(lambda r: said(brighter(r))), stage(lambda r: said(brighter(r)), layout="apart")
    small = stage(lambda r: said(brighter(r)), image_px=4)
    for made in (grid, apart, small):
        assert made([paired_row()])[0].rejection is None
    assert [i.shape for i in grid.vlm.requests[0].images] == [(8, 16, 3)]
    assert [i.shape for i in apart.vlm.requests[0].images] == [(8, 8, 3)] * 2
    assert [i.shape for i in small.vlm.requests[0].images] == [(4, 8, 3)]


def test_a_share_beyond_one_is_refused():
    with pytest.raises(InputError, match="a share, 0 to 1"):
        WriteReflectionsConfig(cot_share=1.5)
