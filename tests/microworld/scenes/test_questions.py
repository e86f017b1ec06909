import json
import re
from collections import Counter

import numpy as np
import pytest

from microworld.scenes.captions import (
    COUNT_WORDS,
    TAGS,
    Clause,
    caption_from_clauses,
    class_plural,
    is_true_of,
    sample_caption,
    sample_scene,
)
from microworld.scenes.corrections import compare, corrections, refine_prompt
from microworld.scenes.edits import wrong_scene
from microworld.scenes.instructions import instruction, parse_instruction, split_sentences
from microworld.scenes.judgement import CRITERIA, judge_prompt
from microworld.scenes.questions import caption_of, near_miss, sample_questions
from microworld.scenes.world import SHAPES, Background, Scene, SceneObject, random_scene

SINGULAR = {class_plural(s): s for s in SHAPES}
NUMBERS = {word: number for number, word in COUNT_WORDS.items()} | {"zero": 0}


def check(text: str, answer: str, scene: Scene) -> bool | None:
    """The answer by an own reading of the question; None for forms that need geometry."""
    things = Counter((o.color, o.shape) for o in scene.objects)
    shapes = Counter(o.shape for o in scene.objects)
    if match := re.fullmatch(r"Is there an? (\w+) (\w+)\?", text):
        return (answer == "Yes.") == bool(things[match[1], match[2]])
    if match := re.fullmatch(r"Are there (\w+) (\w+)\?", text):
        return (answer == "Yes.") == (shapes[SINGULAR[match[2]]] == NUMBERS[match[1]])
    if match := re.fullmatch(r"What color is the (\w+)\?", text):
        return bool(things[answer[:-1].lower(), match[1]]) and shapes[match[1]] == 1
    if match := re.fullmatch(r"How many (\w+) are there\?", text):
        number = NUMBERS[answer[:-1].lower()]
        return number == (len(scene.objects) if match[1] == "objects" else shapes[SINGULAR[match[1]]])
    if match := re.fullmatch(r"What shape is (\w+)\?", text):
        return bool(things[match[1], answer[:-1].split()[1]])
    if match := re.fullmatch(r"What is .+\?", text):
        _, color, shape = answer[:-1].lower().split()
        return bool(things[color, shape])
    return None


def test_answers_are_true_and_yes_as_frequent_as_no():
    rng = np.random.default_rng(1)
    answers: Counter[str] = Counter()
    checked = 0
    for _ in range(250):
        scene = random_scene(rng)
        for question in sample_questions(rng, scene, 4):
            verdict = check(question.text, question.answer, scene)
            assert verdict is not False, (question, scene)
            checked += verdict is True
            answers[question.answer] += 1
    assert checked > 600
    assert 0.85 < answers["Yes."] / answers["No."] < 1.18


def test_an_empty_scene_has_questions_too():
    questions = sample_questions(np.random.default_rng(0), Scene(Background(), ()), 3)
    assert all(q.answer == "Zero." for q in questions if "objects" in q.text)
    assert len(questions) == 3


@pytest.mark.parametrize("tag", TAGS)
def test_near_misses_are_near_and_missed(tag):
    rng = np.random.default_rng(2)
    for _ in range(100):
        caption = sample_caption(rng, {tag: 1.0})
        missed = near_miss(rng, caption)
        scene = sample_scene(rng, caption)
        assert missed.text != caption.text
        assert not is_true_of(missed, scene)
        own = caption_of(rng, scene)
        assert own is None or is_true_of(own, scene)


@pytest.mark.parametrize("tag", TAGS)
def test_judgements_compare_and_refine(tag):
    rng = np.random.default_rng(3)
    for _ in range(80):
        caption = sample_caption(rng, {tag: 1.0})
        right = sample_scene(rng, caption)
        edit, wrong = wrong_scene(rng, caption, right)
        good, bad = judge_prompt(caption, right), judge_prompt(caption, wrong)
        assert set(good) == {*CRITERIA[tag], "overall_score"}
        assert good["overall_score"]["score"] >= 8 > 4 >= bad["overall_score"]["score"]
        assert json.loads(json.dumps(bad)) == bad
        for entry in (*good.values(), *bad.values()):
            assert 0 <= entry["score"] <= 10
            assert entry["explanation"].endswith(".")
        left_is_right = bool(rng.random() < 0.5)
        answer = compare(rng, caption, *((right, wrong) if left_is_right else (wrong, right)))
        assert list(answer) == ["Analysis", "Result", "Instructions"]
        assert answer["Result"] == ("left" if left_is_right else "right")
        told = [parse_instruction(s) for s in split_sentences(answer["Instructions"])]
        assert told
        assert all(e is not None for e in told), answer
        assert edit.operation in {e.operation for e in told if e}
        refined = refine_prompt(rng, caption, wrong)
        assert refined.startswith(caption.text + ", ")


@pytest.mark.parametrize("tag", TAGS)
def test_corrections_exist_for_any_wrong_scene_and_none_for_right_ones(tag):
    rng = np.random.default_rng(4)
    for _ in range(150):
        caption = sample_caption(rng, {tag: 1.0})
        assert corrections(caption, sample_scene(rng, caption)) == ()
        scene = random_scene(rng)
        assert bool(corrections(caption, scene)) != is_true_of(caption, scene)


def test_equally_wrong_images_cannot_be_compared():
    star = caption_from_clauses("single_object", (Clause("star"),))
    empty = Scene(Background(), ())
    with pytest.raises(ValueError, match="none is better"):
        compare(np.random.default_rng(0), star, empty, empty)


def test_corrections_of_a_scene_wrong_in_several_ways_say_all_of_it():
    heart = caption_from_clauses("colors", (Clause("heart", 1, "black"),))
    crosses = (SceneObject("cross", "blue", 7, 7, 9), SceneObject("cross", "purple", 24, 24, 9))
    told = " ".join(instruction(e) for e in corrections(heart, Scene(Background(), crosses)))
    assert told == "Replace one cross by a heart. Make the heart black. Remove the cross."
    rings = caption_from_clauses("counting", (Clause("ring", 2),))
    three = tuple(SceneObject("ring", "red", 6 + 10 * i, 16, 8) for i in range(3))
    told = " ".join(instruction(e) for e in corrections(rings, Scene(Background(), three)))
    assert told == "Remove one ring so that there are two."
