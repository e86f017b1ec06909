"""How probable it is that a VLM gives a question the answer that is expected: Soft-TIFA, as GenEval 2 has it.

Each question is put with its image, greedily, and asked for one word; what counts is the probability of the answer's
first tokens in all their spellings: of "Yes", or of a number as a word and as digits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inference.grounding.rule_reflection import NUMBER_WORDS, counted, number_word, plural
from inference.interfaces import ChatRequest, Vlm
from inference.requirements.atoms import Atom, AtomKind, noun_of
from inference.vlm.prompts import fill_prompt, load_prompt
from schemas.errors import InputError
from schemas.records import PromptRecord, Question

ONE_WORD = "one_word"
"""Template: the question, and behind it what GenEval 2's `soft_tifa` puts there."""


def question_probabilities(
    vlm: Vlm, images: Sequence[np.ndarray], questions: Sequence[Question], template: str = ONE_WORD
) -> np.ndarray:
    """float64 (n,) in [0, 1]: one image, uint8 (H, W, 3), and one question each. template: a name in
    inference/prompts, or a file, with {question}.

    A low probability tells something here, whatever is answered instead: `vlm` should have no answer floor
    (`VlmConfig.without_floor`), else a question that it answers by neither yes nor no is an UnscoredError. InputError
    for an expected answer without a word.
    """
    probabilities = np.zeros(len(questions))
    words_around = load_prompt(template)
    requests = [
        ChatRequest(fill_prompt(words_around, question=question.text), (image,))
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


def as_question(record: PromptRecord, atom: Atom) -> Question:
    """Any requirement as a question about the image: a typed one in words that VLMs are often asked in."""
    if atom.question is not None:
        return atom.question
    if atom.excluded is not None:
        clause = record.exclude[atom.excluded]
        if clause.count == 1:
            return Question(f"Is there {counted(1, clause.class_name)}?", "No")
        return Question(f"Are there fewer than {counted(clause.count, clause.class_name)}?")
    assert atom.clause is not None
    clause = record.include[atom.clause]
    match atom.kind:
        case AtomKind.COUNT:
            return Question(f"How many {plural(clause.class_name)} are there?", number_word(clause.count))
        case AtomKind.COLOR:
            there = "Is there" if clause.count == 1 else "Are there"
            return Question(f"{there} {counted(clause.count, f'{clause.color} {clause.class_name}')}?")
        case AtomKind.RELATION:
            assert clause.relative_to is not None
            is_or_are, other = "Is" if clause.count == 1 else "Are", noun_of(record.include[clause.relative_to])
            return Question(f"{is_or_are} the {noun_of(clause)} {clause.relation} the {other}?")
        case _:
            return Question(f"Is there {counted(1, clause.class_name)}?")
