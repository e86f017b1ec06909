"""How probable it is that a VLM gives a question the answer that is expected: Soft-TIFA, as GenEval 2 has it.

Each question is put with its image, greedily, and asked for one word; what counts is the probability of the answer's
first tokens in all their spellings: of "Yes", or of a number as a word and as digits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inference.grounding.rule_reflection import NUMBER_WORDS
from inference.interfaces import ChatRequest, Vlm
from inference.vlm.prompts import fill_prompt
from schemas.errors import InputError
from schemas.records import Question

ONE_WORD = "{question} Answer in one word."
"""GenEval 2, `soft_tifa`: what stands behind each question."""


def question_probabilities(
    vlm: Vlm, images: Sequence[np.ndarray], questions: Sequence[Question], template: str = ONE_WORD
) -> np.ndarray:
    """float64 (n,) in [0, 1]: one image, uint8 (H, W, 3), and one question each. template: holds {question}.

    A low probability tells something here, whatever is answered instead: `vlm` should have no answer floor
    (`VlmConfig.without_floor`), else a question that it answers by neither yes nor no is an UnscoredError. InputError
    for an expected answer without a word.
    """
    probabilities = np.zeros(len(questions))
    requests = [
        ChatRequest(fill_prompt(template, question=question.text), (image,))
        for image, question in zip(images, questions, strict=True)
    ]
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, question in enumerate(questions):
        groups.setdefault(answer_words(question), []).append(i)
    for words, rows in groups.items():
        found = vlm.first_word_probabilities([requests[i] for i in rows], words)
        probabilities[rows] = found.sum(axis=1, dtype=float)
    return probabilities.clip(0.0, 1.0)


def answer_words(question: Question) -> tuple[str, ...]:
    """What an answer that is as expected begins with: a number as a word and in digits, anything else as it is.
    InputError for an answer without a word."""
    answer = question.answer.strip().rstrip(".").lower()
    if not answer:
        raise InputError(f"no answer is expected of {question.text!r}", field="questions", expected="Yes, or a number")
    number = int(answer) if answer.isdecimal() else None
    if answer in NUMBER_WORDS[1:]:
        number = NUMBER_WORDS.index(answer)
    if number is None:
        return (answer.capitalize(),)
    if not 0 < number < len(NUMBER_WORDS):
        return ("zero", "0") if number == 0 else (str(number),)
    return NUMBER_WORDS[number], str(number)
