from collections import Counter

import pytest

from inference.prompt_grammar import parse_prompt
from pipelines.prompts.compose_rules import TagWeights, compose_prompts, count_compositions
from pipelines.prompts.overlap import BenchmarkOverlap, composition_of, geneval_prompts
from pipelines.prompts.vocabulary import ObjectClass, Vocabulary, load_vocabulary
from schemas.errors import InputError
from schemas.records import ObjectClause, Tag

MICRO = load_vocabulary("micro")
EVERYDAY = load_vocabulary("everyday")
ONLY = {
    tag: TagWeights(**{name: float(name == tag) for name in TagWeights().__dict__}) for tag in TagWeights().__dict__
}
NUM_MICRO = {
    "single_object": 8,
    "two_object": 8 * 7,
    "counting": 8 * 3,
    "colors": 8 * 8,
    "position": 8 * 7 * 4,
    "color_attr": 8 * 7 * 8 * 7,
    "counting_with_color": 8 * 3 * 8,
    "position_with_color": 8 * 7 * 8 * 7 * 4,
}
ALL_OF_MICRO = sum(number for name, number in NUM_MICRO.items() if getattr(TagWeights(), name))

GOLDEN = [
    "a circle",
    "a triangle and a cross",
    "four diamonds",
    "an orange triangle",
    "a circle above a star",
    "an orange circle and a blue triangle",
    "three white triangles",
]


@pytest.fixture(scope="module")
def geneval():
    return BenchmarkOverlap.shipped()


@pytest.fixture(scope="module")
def all_of_micro():
    return compose_prompts(MICRO, ALL_OF_MICRO, 5, None).prompts


def by_text(prompts):
    return {prompt.text: prompt for prompt in prompts}


def test_micro_gives_every_composition_once(all_of_micro):
    assert count_compositions(MICRO) == NUM_MICRO
    assert len({prompt.text for prompt in all_of_micro}) == len(all_of_micro) == 3704
    tags = Counter(prompt.tag for prompt in all_of_micro)
    expected = Counter(NUM_MICRO)
    expected["counting"] += expected.pop("counting_with_color")
    del expected["position_with_color"]  # only where it is asked for
    assert tags == expected


def test_sentences_and_clauses_are_genevals(all_of_micro):
    made = by_text(all_of_micro)

    def check(text, tag, include, exclude=()):
        assert (made[text].tag, made[text].include, made[text].exclude) == (tag, include, exclude)

    circle, star = ObjectClause("circle"), ObjectClause("star")
    check("a photo of a circle", "single_object", (circle,))
    check("a photo of a circle and a star", "two_object", (circle, star))
    three, four = ObjectClause("cross", 3), ObjectClause("cross", 4)
    check("a photo of three crosses", "counting", (three,), (four,))
    check("a photo of an orange ring", "colors", (ObjectClause("ring", 1, "orange"),))
    # The object named second is the first clause, as in GenEval's own file.
    left = ObjectClause("circle", relation="left of", relative_to=0)
    check("a photo of a circle left of a star", "position", (star, left))
    red, blue = ObjectClause("circle", color="red"), ObjectClause("star", color="blue")
    check("a photo of a red circle and a blue star", "color_attr", (red, blue))
    two = ObjectClause("circle", 2, "red")
    check("a photo of two red circles", "counting", (two,), (ObjectClause("circle", 3),))


def test_coloured_relations_are_composed_where_they_are_asked_for():
    number = NUM_MICRO["position_with_color"]
    made = by_text(compose_prompts(MICRO, number, 5, None, ONLY["position_with_color"]).prompts)
    assert len(made) == number
    prompt = made["a photo of a red circle left of a blue star"]
    first = ObjectClause("circle", color="red", relation="left of", relative_to=0)
    assert (prompt.tag, prompt.include) == ("position", (ObjectClause("star", color="blue"), first))
    for other in ("a photo of a blue star left of a red circle", "a photo of a red circle above a blue star"):
        assert made[other].include != prompt.include
    assert parse_prompt(prompt.text, prompt.prompt_id).include == prompt.include


def test_clauses_are_those_of_genevals_own_generator():
    """Composed from GenEval's own classes, the prompts it shares with GenEval have the same clauses."""
    benchmark = {prompt.text: prompt for prompt in geneval_prompts()}
    names = sorted({clause.class_name for prompt in benchmark.values() for clause in prompt.include})
    colors = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
    vocabulary = Vocabulary(tuple(ObjectClass(name, name + "s") for name in names), colors)
    shared = Counter()
    for tag in ("single_object", "two_object", "counting", "colors", "position"):
        num = count_compositions(vocabulary)[tag]
        if tag in ("two_object", "position"):
            num = min(num // 2, 8000)  # enough to meet some of GenEval's
        prompts = compose_prompts(vocabulary, num, 0, None, ONLY[tag])
        for prompt in prompts.prompts:
            if (theirs := benchmark.get(prompt.text)) is not None:
                assert (prompt.tag, prompt.include, prompt.exclude) == (theirs.tag, theirs.include, theirs.exclude)
                shared[tag] += 1
    assert shared["single_object"] == 80
    assert shared["colors"] == 94
    assert shared["counting"] > 70
    assert min(shared["two_object"], shared["position"]) > 20


@pytest.mark.parametrize("vocabulary", [MICRO, EVERYDAY], ids=["micro", "everyday"])
def test_more_prompts_begin_with_the_same_prompts(vocabulary, geneval):
    few = compose_prompts(vocabulary, 48, 7, geneval)
    many = compose_prompts(vocabulary, 400, 7, geneval)
    assert many.prompts[:48] == few.prompts
    assert [prompt.prompt_id for prompt in many.prompts] == [f"rule-{i:06d}" for i in range(400)]


def test_the_seed_decides(geneval):
    first = compose_prompts(EVERYDAY, 100, 1, geneval)
    assert compose_prompts(EVERYDAY, 100, 1, geneval) == first
    other = {prompt.text for prompt in compose_prompts(EVERYDAY, 100, 2, geneval).prompts}
    assert len(other & {prompt.text for prompt in first.prompts}) < 5


def test_these_are_the_prompts_of_seed_0_on_every_machine():
    """Golden: run folders record the seed, so another order would be another data set."""
    texts = [prompt.text.removeprefix("a photo of ") for prompt in compose_prompts(MICRO, 7, 0, None).prompts]
    assert texts == GOLDEN


def test_every_stretch_of_prompts_is_mixed(geneval):
    prompts = compose_prompts(EVERYDAY, 260, 0, geneval).prompts
    for start in range(0, 260, 26):
        tags = Counter(prompt.tag for prompt in prompts[start : start + 26])
        assert tags.pop("counting") in (5, 6, 7)  # plain and coloured
        assert set(tags.values()) <= {3, 4, 5}
        assert len(tags) == 5


def test_weights_steer_and_zero_leaves_out():
    weights = TagWeights(single_object=0, two_object=0, counting=0, colors=1, position=3, counting_with_color=0)
    tags = Counter(prompt.tag for prompt in compose_prompts(EVERYDAY, 500, 0, None, weights).prompts)
    assert tags == {"colors": 100, "position": 300, "color_attr": 100}


def test_exhausted_kinds_leave_their_turns_to_the_others():
    tags = Counter(prompt.tag for prompt in compose_prompts(MICRO, 1000, 0, None).prompts)
    assert tags["single_object"] == 8
    assert tags["two_object"] == 56
    assert tags["counting"] == 24 + 192
    assert tags["colors"] == 64
    assert tags["position"] == 224
    assert tags["color_attr"] == 1000 - 8 - 56 - 216 - 64 - 224


def test_exhaustion_keeps_the_weights_of_what_is_left():
    weights = TagWeights(colors=0, counting=0, counting_with_color=0, two_object=0, color_attr=2)
    tags = Counter(prompt.tag for prompt in compose_prompts(MICRO, 308, 0, None, weights).prompts)
    assert tags == {"single_object": 8, "position": 100, "color_attr": 200}


def test_asking_for_too_many_says_the_maximum(geneval):
    with pytest.raises(InputError, match="gives 3704 at most") as caught:
        compose_prompts(MICRO, 3705, 0, geneval)
    assert (caught.value.field, caught.value.exit_code) == ("num_prompts", 2)
    with pytest.raises(InputError, match="gives 8 at most"):
        compose_prompts(MICRO, 9, 0, None, ONLY["single_object"])
    with pytest.raises(InputError, match="gives 414 at most"):  # 493 classes, 79 of them GenEval's
        compose_prompts(EVERYDAY, 493, 0, geneval, ONLY["single_object"])


def test_far_too_many_of_a_large_vocabulary_fails_at_once(geneval):
    with pytest.raises(InputError, match=r"less than \d{8}"):
        compose_prompts(EVERYDAY, 10**9, 0, geneval)


@pytest.mark.parametrize(
    ("num_prompts", "weights", "field"),
    [
        (0, TagWeights(), "num_prompts"),
        (-3, TagWeights(), "num_prompts"),
        (5, TagWeights(colors=-1), "tag_weights.colors"),
        (5, TagWeights(position=float("nan")), "tag_weights.position"),
        (5, TagWeights(0, 0, 0, 0, 0, 0, 0), "tag_weights"),
    ],
)
def test_senseless_requests_are_input_errors(num_prompts, weights, field):
    with pytest.raises(InputError) as caught:
        compose_prompts(MICRO, num_prompts, 0, None, weights)
    assert caught.value.field == field


def test_no_prompt_of_the_benchmark_is_composed(geneval):
    composed = compose_prompts(EVERYDAY, 1500, 0, geneval)
    benchmark = {composition_of(prompt) for prompt in geneval_prompts()}
    assert not [prompt.text for prompt in composed.prompts if composition_of(prompt) in benchmark]
    assert composed.num_removed_as_overlap_by_text > 50
    unfiltered = compose_prompts(EVERYDAY, 1500, 0, None)
    assert [prompt.text for prompt in unfiltered.prompts if composition_of(prompt) in benchmark]
    assert unfiltered.num_removed_as_overlap_by_text == unfiltered.num_removed_by_composition == 0


def test_removals_are_counted_by_what_was_repeated():
    two = compose_prompts(MICRO, 56, 0, None, ONLY["two_object"]).prompts
    gate = BenchmarkOverlap.from_records([p for p in two if p.text == "a photo of a circle and a star"])
    composed = compose_prompts(MICRO, 54, 0, gate, ONLY["two_object"])
    assert (composed.num_removed_as_overlap_by_text, composed.num_removed_by_composition) == (1, 1)
    assert {p.text for p in two} - {p.text for p in composed.prompts} == {
        "a photo of a circle and a star",
        "a photo of a star and a circle",
    }


def test_reserved_compositions_are_passed_over():
    def has_star(record):
        return any(clause.class_name == "star" for clause in record.include)

    composed = compose_prompts(MICRO, 7 * 6, 0, None, ONLY["two_object"], reserved=has_star)
    assert composed.num_removed_as_reserved <= 14
    assert not any(has_star(prompt) for prompt in composed.prompts)
    with pytest.raises(InputError, match="gives 42 at most"):
        compose_prompts(MICRO, 43, 0, None, ONLY["two_object"], reserved=has_star)


def test_colors_spare_what_cannot_have_one_and_counting_what_comes_in_pairs():
    vocabulary = Vocabulary(
        (
            ObjectClass("person", "people", colorable=False),
            ObjectClass("dog", "dogs"),
            ObjectClass("jeans", "jeans", "a pair of"),
        ),
        ("red", "blue"),
        max_count=2,
    )
    prompts = compose_prompts(vocabulary, 3 + 6 + 2 + 4 + 24 + 4 + 2, 0, None).prompts
    texts = {prompt.text.removeprefix("a photo of ") for prompt in prompts}
    assert {
        "two people",
        "two dogs",
        "two red dogs",
        "a pair of red jeans",
        "a red dog and a pair of blue jeans",
    } <= texts
    assert not [text for text in texts if "red p" in text and "pair" not in text]
    assert not [text for text in texts if "two" in text and "jeans" in text]


def test_classes_that_a_detector_confuses_are_not_put_together():
    cars = (ObjectClass("car", "cars"), ObjectClass("toy car", "toy cars"), ObjectClass("dog", "dogs"))
    vocabulary = Vocabulary(cars, ("red", "blue"))
    with pytest.raises(InputError, match="gives 4 at most"):
        compose_prompts(vocabulary, 6, 0, None, ONLY["two_object"])


def test_a_class_that_reads_like_a_colored_one_gives_each_text_once():
    classes = (ObjectClass("panda", "pandas"), ObjectClass("red panda", "red pandas"))
    weights = TagWeights(two_object=0, counting=0, position=0, color_attr=0, counting_with_color=0)
    with pytest.raises(InputError, match="gives 5 at most"):  # 2 + 4, "a red panda" twice
        compose_prompts(Vocabulary(classes, ("red", "blue")), 6, 0, None, weights)


def test_all_tags_of_the_records_are_composed(all_of_micro):
    assert {prompt.tag for prompt in all_of_micro} == {tag.value for tag in Tag}
    assert {prompt.subset for prompt in all_of_micro} == {"rule"}
