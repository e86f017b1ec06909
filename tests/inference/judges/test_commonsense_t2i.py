"""CommonsenseT2I's protocol: what counts, and its file in every form."""

import csv
import json

import numpy as np
import pytest

from inference.interfaces import ChatAnswer
from inference.judges.commonsense_t2i import (
    CommonsensePair,
    VlmDescriptionJudge,
    accuracy_by_category,
    judge_pairs,
    mean_over_pairs,
    pair_accuracy,
    read_pairs,
)
from schemas.errors import InputError

PAIRS = [
    CommonsensePair(("p1", "p2"), ("bright", "dark"), "light"),
    CommonsensePair(("q1", "q2"), ("bright", "grey"), "light"),
    CommonsensePair(("r1", "r2"), ("dark", "grey"), "other"),
]
LEVELS = {"dark": (0, 80), "grey": (60, 200), "bright": (180, 255)}


def plain(level: int) -> np.ndarray:
    return np.full((4, 4, 3), level, np.uint8)


class Brightness:
    """A VLM that answers whether an image is as bright as the description says; 70 is dark and grey."""

    def answer(self, requests):
        answers = []
        for request in requests:
            word = request.text.split('"')[1]
            low, high = LEVELS[word]
            fits = low <= request.images[0].mean() <= high
            answers.append(ChatAnswer("1." if fits else "0", True, 1, 1))
        return answers

    def first_word_probabilities(self, requests, words):
        raise AssertionError("not asked")


def test_a_try_counts_when_both_images_fit_their_own_and_not_the_other():
    images = [
        ([plain(250), plain(250)], [plain(10), plain(250)]),  # the second try's dark one is bright
        ([plain(250), plain(190)], [plain(100), plain(100)]),  # 190 is grey, too
        ([plain(10), plain(70)], [plain(100), plain(100)]),  # 70 is grey, too
    ]
    fits = judge_pairs(PAIRS, images, VlmDescriptionJudge(Brightness()))
    assert fits.tolist() == [
        [[True, True], [True, False]],
        [[True, False], [True, True]],
        [[True, False], [True, True]],
    ]
    accuracy = pair_accuracy(fits)
    assert accuracy.tolist() == [0.5, 0.5, 0.5]
    assert accuracy_by_category(PAIRS, accuracy) == {"light": 0.5, "other": 0.5, "avg": 0.5}


def test_avg_is_over_pairs_and_not_over_categories():
    values = np.array([1.0, 1.0, 0.0])
    assert accuracy_by_category(PAIRS, values)["avg"] == pytest.approx(2 / 3)
    interval = mean_over_pairs(PAIRS, values)
    assert interval.value == pytest.approx(2 / 3)
    assert interval.low < 2 / 3 < interval.high


def test_as_many_images_of_one_prompt_as_of_the_other():
    with pytest.raises(InputError, match="number of images"):
        judge_pairs(PAIRS[:1], [([plain(1)], [])], VlmDescriptionJudge(Brightness()))


ROWS = [
    {
        "prompt1": "a lit lamp",
        "prompt2": "a lamp",
        "description1": "light",
        "description2": "no light",
        "category": "x",
    },
    {"prompt1": "ice", "prompt2": "water", "description1": "solid", "description2": "flowing"},
]


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_the_benchmarks_file_reads_in_every_form(tmp_path, kind):
    path = tmp_path / f"pairs.{kind}"
    match kind:
        case "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        case "json":
            path.write_text(json.dumps(ROWS))
        case "csv":
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(ROWS[0]))
                writer.writeheader()
                writer.writerows(ROWS)
        case _:
            import pyarrow
            import pyarrow.parquet

            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    first, second = read_pairs(path)
    assert first == CommonsensePair(("a lit lamp", "a lamp"), ("light", "no light"), "x")
    assert (second.prompts, second.category) == (("ice", "water"), "all")


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv"])
def test_a_file_may_begin_with_a_byte_order_mark(tmp_path, suffix):
    path = tmp_path / f"pairs.{suffix}"
    row = ROWS[0] | {"description1": "light\u2028here"}
    if suffix == "csv":
        text = ",".join(row) + "\n" + ",".join(f'"{value}"' for value in row.values()) + "\n"
    else:
        text = json.dumps(row, ensure_ascii=False)
    path.write_text("\ufeff" + text, encoding="utf-8")
    assert read_pairs(path)[0].prompts == ("a lit lamp", "a lamp")


def test_a_broken_row_names_its_line(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n" + json.dumps({**ROWS[1], "description2": " "}) + "\n")
    with pytest.raises(InputError) as caught:
        read_pairs(path)
    assert (caught.value.line, caught.value.field) == (2, "description2")
    with pytest.raises(InputError, match="no such file"):
        read_pairs(tmp_path / "gone.jsonl")
    (tmp_path / "pairs.txt").write_text("x")
    with pytest.raises(InputError, match="unknown kind"):
        read_pairs(tmp_path / "pairs.txt")
