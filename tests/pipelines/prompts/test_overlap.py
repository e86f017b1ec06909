import dataclasses
import hashlib
import json
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.prompts.comparison_text import comparison_text
from pipelines.prompts.overlap import BenchmarkOverlap, OverlapKind, composition_of, geneval_prompts
from schemas.errors import InputError
from schemas.records import RELATIONS, ObjectClause, PromptRecord

# Of the 553 lines of GenEval's prompts/generation_prompts.txt, sorted and joined by newlines.
GENEVAL_TEXTS_SHA256 = "db13d3b9aa8c662809a99c92f2af07b46958f6017d12755e52462a5a9fc428d7"
AWKWARD_WORDS = ("a", "the", "one", "two", "ones", "vases", "knives", "bus", "buses", "tvs", "geese", "as", "grey", "1")
MIRROR = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


@pytest.fixture(scope="module")
def geneval():
    return BenchmarkOverlap.shipped()


def prompt(text, *include):
    return PromptRecord("p", text, "rule", None, include)


def position(first, relation, second):
    return (ObjectClause(second), ObjectClause(first, relation=relation, relative_to=0))


clauses = st.builds(
    ObjectClause,
    st.sampled_from(["cat", "dog", "hot dog", "bus"]),
    st.integers(1, 3),
    st.sampled_from([None, "red", "blue"]),
)


@st.composite
def included(draw):
    """An include list whose clauses refer to earlier ones, as GenEval's do."""
    chosen = draw(st.lists(clauses, min_size=1, max_size=5))
    for index in range(1, len(chosen)):
        if draw(st.booleans()):
            relation, target = draw(st.sampled_from(RELATIONS)), draw(st.integers(0, index - 1))
            chosen[index] = dataclasses.replace(chosen[index], relation=relation, relative_to=target)
    return tuple(chosen)


def test_the_shipped_table_is_geneval():
    prompts = geneval_prompts()
    assert Counter(prompt.tag for prompt in prompts) == {
        "single_object": 80,
        "two_object": 99,
        "counting": 80,
        "colors": 94,
        "position": 100,
        "color_attr": 100,
    }
    texts = "\n".join(sorted(prompt.text for prompt in prompts))
    assert hashlib.sha256(texts.encode()).hexdigest() == GENEVAL_TEXTS_SHA256
    assert len({prompt.prompt_id for prompt in prompts}) == 553


@pytest.mark.parametrize(
    "text",
    [
        "a photo of two toothbrushs",  # as GenEval writes it
        "a photo of two toothbrushes",
        "A photo of 2 toothbrushes.",
        "a  photo, of two toothbrush",
        "The PHOTO of a bench!",
        "photos of one bench",
        "a photo of four knives",
        "a photo of two sheep",
        "a photo of three people",
        "a photo of four TVs",
        "a phóto of a beņch",
        "ａ photo of a bench",
    ],
)
def test_other_spellings_of_a_benchmark_prompt_are_found_by_text(geneval, text):
    assert geneval.find(prompt(text)) is OverlapKind.TEXT


@pytest.mark.parametrize(
    "text",
    ["a photo of three toothbrushes", "a photo of a cave", "a photo of a kit", "", "🙂", "a photo of a vast bench"],
)
def test_other_prompts_are_not_found_by_text(geneval, text):
    assert geneval.find(prompt(text)) is None


@pytest.mark.parametrize(
    ("text", "include"),
    [
        ("x", (ObjectClause("bench"),)),
        ("x", (ObjectClause("sports ball"), ObjectClause("bench"))),  # the other order
        ("x", (ObjectClause("Clocks", 2),)),
        ("x", (ObjectClause("fire hydrant", 1, "blue"),)),
        ("x", position("dog", "right of", "teddy bear")),
        ("x", position("teddy bear", "left of", "dog")),
        ("x", (ObjectClause("apple", 1, "black"), ObjectClause("wine glass", 1, "purple"))),
        ("x", (ObjectClause("sofa"),)),  # GenEval calls it a couch
        ("x", (ObjectClause("mobile phones"),)),
    ],
)
def test_the_same_composition_in_other_words_is_found(geneval, text, include):
    assert geneval.find(prompt(text, *include)) is OverlapKind.COMPOSITION


@pytest.mark.parametrize(
    "include",
    [
        (ObjectClause("carpet cleaner"),),
        (ObjectClause("clock", 3),),  # GenEval has two and four
        (ObjectClause("fire hydrant", 1, "green"),),
        (ObjectClause("fire hydrant", 2, "blue"),),
        position("dog", "left of", "teddy bear"),
        position("teddy bear", "right of", "dog"),
        (ObjectClause("wine glass", 1, "black"), ObjectClause("apple", 1, "purple")),  # colours swapped
        (ObjectClause("bench"), ObjectClause("sports ball"), ObjectClause("dog")),
    ],
)
def test_other_compositions_are_not_found(geneval, include):
    assert geneval.find(prompt("x", *include)) is None


@settings(max_examples=60, deadline=None)
@given(included(), st.randoms(use_true_random=False))
def test_the_order_of_clauses_does_not_matter(include, rng: random.Random):
    order = list(range(len(include)))
    rng.shuffle(order)
    shuffled = tuple(
        dataclasses.replace(
            include[old],
            relative_to=None if include[old].relative_to is None else order.index(include[old].relative_to),
        )
        for old in order
    )
    assert composition_of(prompt("", *shuffled)) == composition_of(prompt("", *include))


@settings(max_examples=60, deadline=None)
@given(clauses, clauses, st.sampled_from(RELATIONS))
def test_a_relation_equals_its_mirror_image_seen_from_the_other_side(first, second, relation):
    here = (second, dataclasses.replace(first, relation=relation, relative_to=0))
    there = (first, dataclasses.replace(second, relation=MIRROR[relation], relative_to=0))
    assert composition_of(prompt("", *here)) == composition_of(prompt("", *there))
    if first != second:
        other = (second, dataclasses.replace(first, relation=MIRROR[relation], relative_to=0))
        assert composition_of(prompt("", *here)) != composition_of(prompt("", *other))


@settings(max_examples=60, deadline=None)
@given(included(), st.data())
def test_any_changed_fact_changes_the_composition(include, data):
    index = data.draw(st.integers(0, len(include) - 1))
    changed = data.draw(
        st.sampled_from(
            [
                dataclasses.replace(include[index], count=include[index].count + 1),
                dataclasses.replace(include[index], color="green"),
                dataclasses.replace(include[index], class_name="zebra"),
            ]
        )
    )
    other = (*include[:index], changed, *include[index + 1 :])
    assert composition_of(prompt("", *other)) != composition_of(prompt("", *include))


@settings(max_examples=60, deadline=None)
@given(st.text())
def test_reducing_a_text_twice_changes_nothing_more(text):
    once = comparison_text(text)
    assert comparison_text(once) == once


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(AWKWARD_WORDS)))
def test_reducing_awkward_words_twice_changes_nothing_more(words):
    once = comparison_text(" ".join(words))
    assert comparison_text(once) == once


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="abcdefgsTU '-.,!3", max_size=40))
def test_case_punctuation_and_spaces_do_not_matter(text):
    noisy = "  " + text.upper().replace(" ", " \t ") + " !?"
    assert comparison_text(noisy) == comparison_text(text)


@pytest.mark.parametrize(
    ("singular", "plural"),
    [
        ("vase", "vases"),
        ("bus", "buses"),
        ("knife", "knives"),
        ("shelf", "shelves"),
        ("box", "boxes"),
        ("tie", "ties"),
        ("bench", "benches"),
        ("puppy", "puppies"),
        ("cookie", "cookies"),
        ("potato", "potatoes"),
        ("glass", "glasses"),
        ("house", "houses"),
        ("mouse", "mice"),
        ("lens", "lenses"),
        ("shoe", "shoes"),
        ("person", "people"),
    ],
)
def test_singular_and_plural_meet(singular, plural):
    assert comparison_text(singular) == comparison_text(plural) != ""


def test_classes_of_the_benchmark_stay_apart():
    names = {clause.class_name for prompt in geneval_prompts() for clause in prompt.include}
    assert len({comparison_text(name) for name in names}) == len(names) == 80


def test_a_benchmark_can_be_read_from_genevals_own_form(tmp_path, geneval):
    path = tmp_path / "evaluation_metadata.jsonl"
    lines = []
    for record in geneval_prompts():
        include = []
        for clause in record.include:
            entry = {"class": clause.class_name, "count": clause.count}
            if clause.color is not None:
                entry["color"] = clause.color
            if clause.relation is not None:
                entry["position"] = [clause.relation, clause.relative_to]
            include.append(entry)
        exclude = [{"class": clause.class_name, "count": clause.count} for clause in record.exclude]
        row = {"tag": record.tag, "include": include, "prompt": record.text}
        lines.append(json.dumps({**row, "exclude": exclude} if exclude else row))
    path.write_text("\n".join(lines))
    assert BenchmarkOverlap.from_metadata(path) == geneval


def test_a_benchmark_file_with_a_mistake_is_an_input_error(tmp_path):
    path = tmp_path / "metadata.jsonl"
    path.write_text('{"tag": "colours", "include": [{"class": "cat", "count": 1}], "prompt": "a photo of a cat"}\n')
    with pytest.raises(InputError, match="did you mean 'colors'"):
        BenchmarkOverlap.from_metadata(path)
