"""Prompts that the reader learns from: what they say is what their clauses require."""

import re

import numpy as np
import pytest

from inference.prompt_grammar import parse_prompt
from inference.requirements.read_answer import read_answer
from microworld.scenes.captions import Clause, caption_of_record, class_plural
from microworld.scenes.long_captions import caption_of_text
from microworld.scenes.requirement_prompts import (
    FORMS,
    answer_of,
    is_kept,
    same_requirements,
    sample_reading,
)
from microworld.scenes.unknown_words import ADJECTIVES, NOUNS
from microworld.scenes.world import COLORS, SHAPES

READ = [form for form in FORMS if form not in ("spoilt", "unknown")]


def readings(form, number=60, reserved=False):
    rng = np.random.default_rng(list(FORMS).index(form))
    return [sample_reading(rng, reserved, {form: 1.0}) for _ in range(number)]


def words_of(text):
    return re.findall(r"\w+", text.lower())


def test_captions_of_geneval_require_what_the_grammar_reads_in_them():
    plain = [r for r in readings("geneval", 200) if r.text.startswith("a photo of ") and "background" not in r.text]
    plain = [r for r in plain if re.fullmatch(r"a photo of [a-z ]+", r.text)]
    assert len(plain) > 100
    for reading in plain:
        assert same_requirements(caption_of_record(parse_prompt(reading.text)).clauses, reading.clauses), reading


def test_a_list_without_relations_requires_what_a_reader_of_captions_finds_in_it():
    unusual = re.compile(
        r"[0-9]|big|pair|couple|colored|\bthat are|that is|which|five|six|seven|eight|\bin [a-z]+\b", re.I
    )
    plain = [r for r in readings("list", 400) if not any(c.relation for c in r.clauses) and not unusual.search(r.text)]
    assert len(plain) > 50
    for reading in plain:
        assert same_requirements(caption_of_text(reading.text).clauses, reading.clauses), reading


@pytest.mark.parametrize("form", READ)
def test_clauses_say_no_more_than_the_words(form):
    for reading in readings(form):
        words = words_of(reading.text)
        assert reading.clauses
        for index, clause in enumerate(reading.clauses):
            assert clause.shape in words or class_plural(clause.shape) in words, reading
            assert clause.color is None or clause.color in words
            assert clause.relation is None or 0 <= clause.relation[1] < index
        told = {c.color for c in reading.clauses} - {None}
        assert told == {word for word in words if word in COLORS}, reading
        named = {c.shape for c in reading.clauses} | set(reading.absent)
        assert named == {shape for shape in SHAPES if {shape, class_plural(shape)} & set(words)}, reading


@pytest.mark.parametrize("form", READ)
def test_an_answer_is_read_as_it_was_meant(form):
    for reading in readings(form):
        record = read_answer(answer_of(reading), reading.text)
        assert caption_of_record(record).clauses == reading.clauses
        assert [question.answer for question in record.questions] == ["No"] * len(reading.absent)


def test_requirements_are_the_same_in_any_order_and_differ_by_any_word():
    star, ring = Clause("star", 2, "red"), Clause("ring", relation=("above", 0))
    assert same_requirements(
        (star, Clause("heart"), ring), (Clause("heart"), star, Clause("ring", 1, None, ("above", 1)))
    )
    assert not same_requirements(
        (star, Clause("heart"), ring), (star, Clause("heart"), Clause("ring", 1, None, ("above", 1)))
    )
    for other in (Clause("star", 3, "red"), Clause("star", 2, "blue"), Clause("star", 2), Clause("ring", 2, "red")):
        assert not same_requirements((star,), (other,))


def test_a_prompt_with_a_word_of_another_world_requires_nothing():
    known = {word for form in READ for reading in readings(form, 150) for word in words_of(reading.text)}
    assert not known & {*NOUNS, *ADJECTIVES} - {"grey"}  # of backgrounds
    for form in ("spoilt", "unknown"):
        for reading in readings(form, 150):
            assert (reading.clauses, reading.absent) == ((), ())
    unknown = [set(words_of(reading.text)) - known for reading in readings("spoilt", 150)]
    assert np.mean([bool(words) for words in unknown]) > 0.97  # "grey" and a few frames are seldom


def test_compositions_of_benchmarks_are_never_trained_on():
    for form in ("geneval", "list", "sentences", "shared"):
        assert not any(is_kept(reading.clauses) for reading in readings(form))
        assert all(is_kept(reading.clauses) for reading in readings(form, 20, reserved=True))
    pair = (Clause("ring", 1, "blue"), Clause("star", 2, "red", ("left of", 0)), Clause("heart"))
    assert is_kept(pair) == is_kept((pair[2], pair[0], Clause("star", 2, "red", ("left of", 1))))
