import json
import re

import pytest

from microworld.scenes.world import COLORS, SHAPES
from pipelines.prompts.vocabulary import ObjectClass, Vocabulary, load_vocabulary, save_vocabulary
from pipelines.prompts.wording import noun_phrase
from schemas.errors import InputError
from schemas.records import RELATIONS

CLASSES = [{"name": "goose", "plural": "geese"}, {"name": "hourglass", "plural": "hourglasses", "article": "an"}]


def vocabulary_file(tmp_path, **changes):
    content = {"classes": CLASSES, "colors": ["red", "blue"], "relations": ["left of"], "max_count": 3, **changes}
    path = tmp_path / "own.json"
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return path


def test_micro_names_what_the_micro_world_draws():
    micro = load_vocabulary("micro")
    assert micro.class_names == set(SHAPES)
    assert set(micro.colors) == set(COLORS)
    assert micro.relations == RELATIONS
    assert micro.max_count == 4


def test_everyday_has_hundreds_of_objects_beyond_the_benchmarks_and_its_ten_colors():
    everyday = load_vocabulary("everyday")
    assert len(everyday.class_names) == len(everyday.classes) >= 300
    assert {"carpet cleaner", "measuring spoon", "colored pencil", "dog", "pizza", "hammer"} <= everyday.class_names
    ten = {"red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white"}
    assert len(everyday.colors) == 10
    assert set(everyday.colors) == ten
    assert not next(cls for cls in everyday.classes if cls.name == "person").colorable


def test_everyday_plurals_are_english():
    plural = {cls.name: cls.plural for cls in load_vocabulary("everyday").classes}
    for name, expected in {
        "knife": "knives", "sheep": "sheep", "goose": "geese", "person": "people", "toothbrush": "toothbrushes",
        "bench": "benches", "bus": "buses", "strawberry": "strawberries", "potato": "potatoes", "scarf": "scarves",
        "donkey": "donkeys", "box": None, "gift box": "gift boxes", "piano": "pianos", "leaf": "leaves",
    }.items():  # fmt: skip
        assert plural.get(name) == expected
    # A rule of thumb over all of them: nothing ends as no English plural does.
    irregular = {"people", "sheep", "geese", "deer", "cacti", "computer mice", "starfish", "goldfish", "jellyfish"}
    odd = [p for p in plural.values() if not re.search(r"[^s]s$|glasses$|dresses$|compasses$|men$|^ears of corn$", p)]
    assert set(odd) <= irregular
    wrong = [p for p in plural.values() if re.search(r"([^aeiou]ys|shs|chs|xs|ss|ifes|people?s)$", p)]
    assert wrong == []


@pytest.mark.parametrize(
    ("name", "count", "color", "phrase"),
    [
        ("apple", 1, None, "an apple"),
        ("apple", 1, "red", "a red apple"),
        ("car", 1, "orange", "an orange car"),
        ("hourglass", 1, None, "an hourglass"),
        ("hourglass", 1, "blue", "a blue hourglass"),
        ("ukulele", 1, None, "a ukulele"),
        ("ukulele", 1, "orange", "an orange ukulele"),
        ("scissors", 1, None, "a pair of scissors"),
        ("scissors", 1, "red", "a pair of red scissors"),
        ("goose", 3, None, "three geese"),
        ("goose", 2, "white", "two white geese"),
    ],
)
def test_articles_colors_and_numbers_read_as_english(name, count, color, phrase):
    cls = next(cls for cls in load_vocabulary("everyday").classes if cls.name == name)
    assert noun_phrase(cls, count, color) == phrase


def test_what_comes_in_pairs_has_no_counted_form():
    with pytest.raises(ValueError, match="pairs"):
        noun_phrase(ObjectClass("jeans", "jeans", "a pair of"), 2)


def test_a_file_of_ones_own_is_read(tmp_path):
    vocabulary = load_vocabulary(vocabulary_file(tmp_path))
    assert vocabulary.classes == (ObjectClass("goose", "geese"), ObjectClass("hourglass", "hourglasses", "an"))
    assert (vocabulary.colors, vocabulary.relations, vocabulary.max_count) == (("red", "blue"), ("left of",), 3)


def test_relations_and_max_count_have_defaults(tmp_path):
    vocabulary = load_vocabulary(vocabulary_file(tmp_path, relations=None, max_count=None))
    assert (vocabulary.relations, vocabulary.max_count) == (RELATIONS, 4)


@pytest.mark.parametrize(
    ("changes", "field", "problem"),
    [
        ({"classes": None}, "classes", "missing"),
        ({"classes": CLASSES[:1]}, "classes", "too short"),
        ({"classes": [*CLASSES, {"name": "goose", "plural": "gooses"}]}, "classes[2]", "is also classes[0]"),
        ({"classes": [*CLASSES, {"name": "dog"}]}, "classes[2].plural", "no plural"),
        ({"classes": [*CLASSES, {"name": "dog", "plural": "dogs", "artcle": "a"}]}, "classes[2]", "'article'"),
        ({"classes": [*CLASSES, {"name": "dog", "plural": "dogs", "article": "the"}]}, "classes[2].article", "'the'"),
        ({"classes": [*CLASSES, {"name": "Dog.", "plural": "dogs"}]}, "classes[2].name", "usable"),
        ({"classes": [*CLASSES, {"name": "dog", "plural": 3}]}, "classes[2].plural", "no text"),
        ({"classes": [*CLASSES, {"name": "dog", "plural": "dogs", "colorable": 1}]}, "classes[2].colorable", "1"),
        ({"classes": [*CLASSES, "dog"]}, "classes[2]", "no object"),
        ({"colors": ["red", "red"]}, "colors[1]", "is also colors[0]"),
        ({"colors": ["red", ""]}, "colors[1]", "empty"),
        ({"relations": ["left off"]}, "relations[0]", "did you mean 'left of'"),
        ({"max_count": 1}, "max_count", "1 is not allowed"),
        ({"max_count": 40}, "max_count", "40 is not allowed"),
        ({"max_count": True}, "max_count", "True is not allowed"),
        ({"size": 3}, "(the whole file)", "unknown key 'size'"),
    ],
)
def test_a_wrong_file_names_file_field_and_what_was_expected(tmp_path, changes, field, problem):
    path = vocabulary_file(tmp_path, **changes)
    with pytest.raises(InputError) as caught:
        load_vocabulary(path)
    assert (caught.value.file, caught.value.field) == (str(path), field)
    assert problem in caught.value.problem
    assert caught.value.expected
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"classes": [\n  {"name": "a",]\n}', "line 2 column 16"),
        (b"[1, 2]", "no object"),
        (b"", "not valid JSON"),
        (b'{"colors": ["\xff"]}', "UTF-8"),
        (b'{"colors": [], "colors": []}', "occurs twice"),
    ],
)
def test_a_file_that_is_no_vocabulary_is_an_input_error(tmp_path, content, problem):
    path = tmp_path / "own.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(problem)):
        load_vocabulary(path)


def test_an_unknown_name_lists_the_shipped_ones():
    with pytest.raises(InputError, match="did you mean 'everyday'") as caught:
        load_vocabulary("evryday")
    assert "everyday or micro" in (caught.value.expected or "")


def test_what_is_saved_is_what_is_loaded(tmp_path):
    path = tmp_path / "new folder" / "v.json"
    for vocabulary in (
        load_vocabulary("everyday"),
        Vocabulary((ObjectClass("a", "as"), ObjectClass("x", "x", "a pair of", False)), ("red", "blue"), ("above",), 9),
    ):
        save_vocabulary(vocabulary, path)
        assert load_vocabulary(path) == vocabulary
    assert [entry.name for entry in path.parent.iterdir()] == ["v.json"]
