"""Probabilities of first words, of answers that are written down: what each token is followed by, and how probably."""

from functools import cache

import numpy as np
import pytest
from transformers import AutoTokenizer

from inference.model_store import resolve_model
from inference.vlm.first_words import check_answered, find_first_words, with_opposites
from schemas.errors import UnscoredError
from tests.support.tiny_models.vlms import spaced_tokenizer, split_tokenizer

WORDS = ("Yes", "No")


@cache
def micro_tokenizer():
    """With "Yes", " Yes" and "yes" as one token each."""
    return AutoTokenizer.from_pretrained(resolve_model("micro/vlm"))


def answers(tokenizer, tree):
    """tree: text so far -> text of the next token -> probability; the rest is spread over all tokens."""
    asked = []

    def token(text):
        (one,) = [i for i in range(len(tokenizer)) if tokenizer.convert_ids_to_tokens(i) == text]
        return one

    def next_tokens(rows, begun):
        for row, prefix in zip(rows, begun, strict=True):
            asked.append((row, prefix))
            chances = np.full(len(tokenizer), 1e-9, np.float32)
            for text, chance in tree[row].get("".join(tokenizer.convert_ids_to_tokens(list(prefix))), {}).items():
                chances[token(text)] = chance
            yield chances

    return find_first_words(tokenizer, len(tree), WORDS, next_tokens), asked


def test_a_word_of_one_token_takes_one_pass():
    found, asked = answers(micro_tokenizer(), [{"": {"Yes": 0.7, "No": 0.2}}, {"": {"No": 0.9}}])
    np.testing.assert_allclose(found.probabilities, [[0.7, 0.2], [0, 0.9]], atol=1e-6)
    assert len(asked) == 2


def test_spellings_add_up():
    tree = {"": {"Yes": 0.4, "ĠYes": 0.2, "yes": 0.1, "No": 0.05, "ĠNo": 0.05, "no": 0.1}}
    found, _ = answers(micro_tokenizer(), [tree])
    np.testing.assert_allclose(found.probabilities, [[0.7, 0.2]], atol=1e-6)


def test_words_that_begin_with_a_space():
    found, asked = answers(spaced_tokenizer([], "</s>", prepends=True), [{"": {"▁Yes": 0.6, "Yes": 0.1, "▁No": 0.2}}])
    np.testing.assert_allclose(found.probabilities, [[0.7, 0.2]], atol=1e-6)
    assert len(asked) == 1


def test_a_first_token_is_not_yet_the_word():
    """ "Y" may go on as "Yes" or as "You see ..."."""
    tree = {"": {"Y": 0.8, "N": 0.2}, "Y": {"e": 0.5, "o": 0.5}, "Ye": {"s": 0.9, "t": 0.1}, "N": {"o": 1.0}}
    found, asked = answers(split_tokenizer(), [tree])
    np.testing.assert_allclose(found.probabilities, [[0.8 * 0.5 * 0.9, 0.2]], atol=1e-5)
    assert len(asked) == 4


@pytest.mark.parametrize("before", [["Ċ"], ["*", "*"], ["Ċ", "*", "*"], ["Ġ"]])
def test_what_decorates_an_answer_is_looked_through(before):
    tree = {"".join(before[:i]): {before[i]: 0.9, "Yes": 0.05} for i in range(len(before))}
    tree["".join(before)] = {"Yes": 0.75, "No": 0.25}
    found, _ = answers(micro_tokenizer(), [tree])
    outer = sum(0.05 * 0.9**i for i in range(len(before)))
    share = 0.9 ** len(before)
    np.testing.assert_allclose(found.probabilities, [[outer + 0.75 * share, 0.25 * share]], atol=1e-5)


@pytest.mark.parametrize("said", [["<think>"], ["T", "h"], ["Ċ", "Ċ", "Ċ", "Ċ", "Y"]])
def test_what_begins_otherwise_is_noticed_and_told(said):
    tree = {"".join(said[:i]): {said[i]: 0.97, "N": 0.01} for i in range(len(said))}
    tokenizer = split_tokenizer()
    found, _ = answers(tokenizer, [{"": {"Y": 1.0}, "Y": {"e": 1.0}, "Ye": {"s": 1.0}}, tree])
    shown = tokenizer.decode([tokenizer.convert_tokens_to_ids(said[0])])
    with pytest.raises(UnscoredError) as told:
        check_answered(found, WORDS, ["Is it?", "Is it red?"], 0.05, "my/vlm", "do this")
    for part in ("my/vlm", "red?", repr(shown), "0.97", "1 of 2", "do this"):
        assert part in str(told.value)
    check_answered(found, WORDS, ["Is it?", "Is it red?"], 0.0, "my/vlm", "")


def test_a_lone_yes_is_scored_where_the_answer_is_no():
    assert with_opposites(["Yes"]) == ["Yes", "No"]
    assert with_opposites(["no"]) == ["no", "Yes"]
    assert with_opposites(["Yes", "no"]) == ["Yes", "no"]
    assert with_opposites(["two", "2"]) == ["two", "2"]


def test_words_that_begin_alike_are_no_choice():
    with pytest.raises(ValueError, match="different tokens"):
        find_first_words(split_tokenizer(), 0, ("Yes", "Yes."), lambda rows, begun: iter(()))
