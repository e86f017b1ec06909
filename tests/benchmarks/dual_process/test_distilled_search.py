"""Best of n replayed from images that are drawn once, and the table's differences, on scores that are made up."""

import numpy as np
import pytest

from benchmarks.dual_process.distilled_search import Prompted, print_search, table

SCORES = np.array([0.0, 3.0, 1.0, 2.0, 5.0, 5.0, -1.0, 4.0])
RIGHT = np.array([True, False, False, True, False, True, False, True])


def test_smaller_searches_are_disjoint_groups_of_the_images_in_order():
    one = Prompted("position", 0, SCORES, RIGHT)
    assert one.chosen(1).tolist() == list(range(8))
    assert one.chosen(2).tolist() == [1, 3, 4, 7]  # of equally good ones the first
    assert one.chosen(4).tolist() == [1, 4]
    assert one.chosen(8).tolist() == [4]
    assert [one.share_right(n) for n in (1, 2, 4, 8)] == [0.5, 0.5, 0.0, 0.0]
    assert [one.share_possible(n) for n in (1, 2, 4, 8)] == [0.5, 1.0, 1.0, 1.0]
    assert one.opinion(8) == pytest.approx(1 / (1 + np.exp(-5)))


def test_images_that_fill_no_group_are_left_out():
    one = Prompted("position", 0, SCORES[:7], RIGHT[:7])
    assert one.chosen(4).tolist() == [1]
    assert one.share_possible(4) == 1.0


def prompted(tag: str, pair: int, right, scores=(0.0, 1.0, 2.0, 3.0)) -> Prompted:
    return Prompted(tag, pair, np.array(scores), np.array(right, bool))


def test_what_search_and_what_teaching_adds(capsys):
    found = {
        "base": [prompted("position", 0, [0, 0, 0, 1]), prompted("counting", 1, [0, 1, 0, 1])],
        "taught": [prompted("position", 0, [1, 0, 1, 1]), prompted("counting", 1, [1, 1, 1, 0])],
    }
    figures = table(found, [1, 2, 4])
    rows = {(row["generator"], row["images"]): row for row in figures["rows"]}
    assert rows["base", 1]["by_tag"] == {"position": 0.25, "counting": 0.5}
    assert rows["base", 4]["right"][0] == 1.0
    assert rows["base", 4]["search adds"][0] == pytest.approx(1 - 0.375)
    assert rows["taught", 1]["teaching adds"][0] == pytest.approx(0.75 - 0.375)
    assert rows["taught", 4]["right"][0] == 0.5  # the verifier chooses a wrong one of the second prompt
    assert rows["taught", 4]["search adds"][0] == pytest.approx(-0.25)
    assert rows["taught", 4]["teaching adds"][0] == pytest.approx(-0.5)
    assert rows["taught", 4]["best there was"][0] == 1.0
    assert figures["base images for one taught"] == 2
    print_search({**figures, "num_prompts": 2})
    assert "the best of 2 of the base's" in capsys.readouterr().out


def test_a_base_that_never_gets_there_is_said_to_need_more():
    found = {
        "base": [prompted("position", 0, [0, 0, 0, 0])],
        "taught": [prompted("position", 0, [1, 1, 1, 1])],
    }
    assert table(found, [1, 2, 4])["base images for one taught"] is None
