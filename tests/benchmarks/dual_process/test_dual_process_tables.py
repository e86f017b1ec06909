"""The tables' arithmetic, on results that are made up."""

import pytest

from benchmarks.dual_process.dual_process_tables import plot, table_1
from benchmarks.dual_process.dual_process_tasks import Task, asked_about, unrelated_prompts
from inference.judges.commonsense_t2i import CommonsensePair

PAIRS = [
    CommonsensePair(("a photo of a sunrise", "a photo of a noon"), ("low", "high"), "sky"),
    CommonsensePair(("a photo of a star", "a photo of a ring"), ("a photo of a star", "a photo of a ring"), "thing"),
]


def result(before, after, vlm=(0.2, 0.9), unrelated=((True, True), (True, False))):
    return {
        "fits_before": before,
        "fits_after": after,
        "vlm_before": vlm[0],
        "vlm_after": vlm[1],
        "unrelated_before": list(unrelated[0]),
        "unrelated_after": list(unrelated[1]),
        "seconds": 2.0,
    }


def test_a_pair_counts_where_both_of_its_images_are_right(tmp_path, capsys):
    results = {}
    for kind in ("base", "expanded"):
        for side in (0, 1):
            results[Task("one step", 0, side, kind)] = result([False, side == 0], [True, True])
            results[Task("one step", 1, side, kind)] = result([True, True], [side == 0, True])
    figures = table_1("one step", PAIRS, results)
    assert figures["rows"]["Base Prompt"]["by_category"] == {"sky": 0.0, "thing": 1.0, "avg": 0.5}
    assert figures["rows"]["Base Prompt + Ours"]["by_category"] == {"sky": 1.0, "thing": 0.5, "avg": 0.75}
    changed = figures["differences"]["Base Prompt"]
    assert changed["pairs right"][0] == pytest.approx(0.25)
    assert changed["images right"][0] == pytest.approx((0.5 + 1.0 + 0.0 - 0.5) / 4)
    assert changed["the VLM's opinion"] == pytest.approx([0.7] * 3)
    assert changed["unrelated prompts right"] == pytest.approx([-0.5] * 3)
    assert figures["differences"]["expanded prompt alone"][0] == 0
    assert "sky" in capsys.readouterr().out
    plot({"one step": {"table 1": figures}}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_questions_leave_what_a_word_means_to_the_vlm():
    concept, weak = (asked_about(pair, 0) for pair in PAIRS)
    assert concept[0].question == "Does the image show a sunrise?"
    assert not any("low" in asked.question for asked in concept)
    assert weak[0].question == "Is there a star?"


def test_unrelated_prompts_are_of_every_tag_and_of_no_pair():
    chosen = unrelated_prompts({"a photo of a star"})
    assert len({record.tag for record in chosen}) == 6
    assert "a photo of a star" not in {record.text for record in chosen}
    assert 20 < len({record.text for record in chosen}) == len(chosen)
