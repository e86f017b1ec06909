"""What is no prompt in GenEval's forms though it sounds like one, and what still is."""

import pytest

from inference.known_classes import KnownClasses, classes_named, known_classes
from inference.prompt_grammar import parse_prompt, tag_of, with_requirements
from pipelines.prompts.overlap import geneval_prompts
from schemas.errors import InputError
from schemas.records import ObjectClause, PromptRecord

FREE = [
    "A steampunk fox writing a letter by candlelight",
    "a cat left of a dog and a bird",
    "a photo of a teal cat",
    "a man and his dog",
    "a photo of love",
    "two people dancing in the rain",
    "a bird above a nest of eggs",
    "one day in Paris",
    "a black and white cat",
    "a dog and a dog",
    "a cat and a dog left of a bird",
    "a cat left of a dog left of a bird",
    "three wise men",
    "a cat, a dog",
    "a photo of a dogs",
    "an apple a day",
    "a star is born",
    "seven dogs",
    "a cat\nand a poem",
    "ein Hund und eine Katze",
    "a photo of a cat 🐈",
]


@pytest.mark.parametrize("text", FREE)
def test_a_prompt_that_speaks_of_anything_else_is_a_free_one(text):
    with pytest.raises(InputError, match="cannot tell what"):
        parse_prompt(text)
    assert tag_of(PromptRecord("p", text, "rule")) is None
    with pytest.raises(InputError, match="cannot tell what"):
        with_requirements(PromptRecord("p", text, "rule"))


@pytest.mark.parametrize(
    ("text", "clauses"),
    [
        ("two knives", (ObjectClause("knife", 2),)),
        ("A photo of THREE geese.", (ObjectClause("goose", 3),)),
        ("four sheep", (ObjectClause("sheep", 4),)),
        ("a photo of two people", (ObjectClause("person", 2),)),
        ("a photo of two toothbrushs", (ObjectClause("toothbrush", 2),)),
        ("an orange orange", (ObjectClause("orange", 1, "orange"),)),
        ("a red star and a star", (ObjectClause("star", 1, "red"), ObjectClause("star"))),
        ("a hot dog left of two cats", (ObjectClause("cat", 2), ObjectClause("hot dog", 1, None, "left of", 0))),
    ],
)
def test_known_classes_are_told_in_the_singular_and_the_plural(text, clauses):
    record = parse_prompt(text)
    assert (record.include, record.requirements_from) == (clauses, "grammar")


def test_the_error_names_the_noun_that_is_not_known():
    with pytest.raises(InputError, match="'wise men' is no class that is known"):
        parse_prompt("three wise men")


def test_a_vocabulary_of_ones_own_makes_its_classes_known():
    own = classes_named([("dragon", "dragons"), ("octopus", "octopodes")]).beside(known_classes())
    (two,) = parse_prompt("two red octopodes", known=own).include
    assert two == ObjectClause("octopus", 2, "red")
    assert [c.class_name for c in parse_prompt("a dragon above a cat", known=own).include] == ["cat", "dragon"]
    with pytest.raises(InputError):
        parse_prompt("a dragon")
    with pytest.raises(InputError):
        parse_prompt("a cat", known=KnownClasses(frozenset({"dragon"})))


def test_all_of_genevals_classes_are_known():
    assert {c.class_name for p in geneval_prompts() for c in p.include} <= known_classes().names
