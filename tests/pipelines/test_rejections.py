"""A run whose prompts are all rejected alike says so, and does not end as if all were well."""

from dataclasses import replace

import pytest

from commands.runs import Finish, work
from pipelines.driver import RunOptions
from pipelines.rejections import FAULTS, Rejections
from schemas.records import Pair, Quarantine, Reason, Rejection
from tests.support.rows import prompt_row
from tests.support.toy_job import ToyConfig, create

STAGES = ["read_edits", "caption_images", "write_reflections"]


def counted(reasons, stage="caption_images", detail="described as 'I cannot'"):
    """One prompt for each reason; None: shipped."""
    found = Rejections()
    for number, reason in enumerate(reasons):
        row = prompt_row(number)
        if reason is not None:
            row = replace(row, rejection=Rejection(stage, reason, detail))
        found.add("editing", STAGES, row)
    return found


@pytest.mark.parametrize("reason", sorted(FAULTS))
@pytest.mark.parametrize("number", [1, 3, 40])
def test_refusals_throughout_are_a_fault_however_few(reason, number):
    (fault,) = counted([reason] * number).faults()
    assert (fault.reason, fault.share, fault.stage) == (reason, 1.0, "caption_images")
    assert "I cannot" in fault.in_words()
    assert f"{number} of {number} editing prompts" in fault.in_words()


def test_a_few_that_pass_are_no_fault_and_most_are_worth_a_word():
    found = counted([Reason.REFUSED_ANSWER] * 18 + [None] * 2)
    assert not found.faults()
    (alike,) = found.alike()
    assert alike.share == 0.9
    assert not counted([Reason.REFUSED_ANSWER] * 9 + [None] * 11).alike()


@pytest.mark.parametrize("reason", [Reason.TOO_EASY, Reason.VERIFIER_DISAGREES, Reason.ALL_WRONG])
def test_quality_may_turn_down_a_small_run_and_not_all_of_a_larger_one(reason):
    assert not counted([reason] * 7).faults()
    assert counted([reason] * 8).faults()
    assert not counted([reason] * 30 + [None]).faults()
    assert not counted([reason] * 8 + [Reason.NO_MARGIN] * 8).faults()


def test_prompts_that_an_earlier_stage_rejected_are_not_in_the_share_of_a_later_one():
    found = counted([Reason.REFUSED_ANSWER] * 4)
    for number in range(4, 20):
        row = replace(prompt_row(number), rejection=Rejection("read_edits", Reason.EQUAL_IMAGES))
        found.add("editing", STAGES, row)
    (fault,) = found.faults()
    assert (fault.count, fault.seen) == (4, 4)


def test_a_prompt_without_pairs_is_told_by_its_pairs_reason():
    found = Rejections()
    for number in range(3):
        refused = Rejection("write_reflections", Reason.REFUSED_REFLECTION, "I'm sorry\x1b[0m")
        row = replace(
            prompt_row(number),
            pairs=(Pair(0, 0, 1, "test", rejection=refused),),
            rejection=Rejection("write_reflections", Reason.NO_PAIR_LEFT, "refused_reflection"),
        )
        found.add("general", STAGES, row)
    (fault,) = found.faults()
    assert fault.reason == Reason.REFUSED_REFLECTION
    assert "I'm sorry" in fault.in_words()
    assert "\x1b" not in fault.in_words()


def test_what_a_model_answered_and_what_rows_failed_of_is_told_however_rarely():
    found = counted([Reason.MALFORMED_ANSWER] + [None] * 20, "write_reflections", "Sure!\nThe left one is better.")
    row = replace(
        prompt_row(30), pairs=(Pair(0, 0, 1, "x", rejection=Rejection("write_reflections", Reason.EMPTY_ANSWER)),)
    )
    found.add("rule", STAGES, row)
    for number in (31, 32):
        aside = Quarantine("score_drafts", "UnscoredError: m answers 'As an AI' where Yes or No is asked for")
        found.add("rule", STAGES, replace(prompt_row(number), quarantine=aside))
    assert not found.alike()
    first, *others = found.told()
    assert first.startswith("score_drafts: 2 prompts failed (UnscoredError), such as ")
    assert "As an AI" in first
    assert any("Sure! The left one is better." in line and "malformed_answer" in line for line in others)
    assert any("empty_answer" in line for line in others)


def test_the_console_names_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TOY_FAIL", "p003")
    folder = create(str(tmp_path / "run"), ToyConfig(num_prompts=8))
    assert work(folder, ToyConfig(num_prompts=8), RunOptions(quiet=True), Finish()) == 4
    said = capsys.readouterr().err
    assert "draw_squares: 1 prompts failed (ValueError), such as p003" in said
