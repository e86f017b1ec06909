"""The paired gain of two searches, and its exact test, with figures worked out by hand."""

import json

import pytest

from benchmarks.search.paired_gain import delivered, exact_p, paired
from schemas.errors import InputError


def rows(verdicts):
    return [{"prompt": f"p{i}", "tag": "position", "correct": v} for i, v in enumerate(verdicts)]


def test_what_only_one_has_right_is_counted():
    found = paired(rows([True, False, False, False, True]), rows([True, True, True, False, False]))
    assert (found["only_b_right"], found["only_a_right"]) == (2, 1)
    assert (found["a"], found["b"], found["gain"]["value"]) == (0.4, 0.6, 0.2)
    assert found["gain"]["low"] < 0.2 < found["gain"]["high"]
    assert found["p"] == 1.0


def test_the_exact_test_is_a_fair_coins():
    assert exact_p(5, 0) == exact_p(0, 5) == pytest.approx(2 / 32)
    assert exact_p(4, 1) == pytest.approx(2 * 6 / 32)
    assert exact_p(3, 3) == exact_p(0, 0) == 1.0


def test_searches_of_other_prompts_or_without_results_are_refused(tmp_path):
    with pytest.raises(InputError, match="other prompts"):
        paired(rows([True]), rows([True, False]))
    with pytest.raises(InputError, match=r"results\.jsonl is not there"):
        delivered(tmp_path)
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows([True, False])))
    assert [r["correct"] for r in delivered(tmp_path)] == [True, False]
