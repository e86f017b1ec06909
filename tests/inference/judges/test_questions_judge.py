"""A judge by questions: right where every requirement holds, what fails is said, and who chooses does not judge."""

import math
import shutil
from dataclasses import replace

import pytest

from inference.judges.judge import JudgeConfig, judge_images
from inference.judges.questions_judge import QuestionsJudgeConfig, atoms_asked, geometric_mean, num_questions
from inference.model_store import resolve_model
from inference.prompt_grammar import parse_prompt, record_of
from inference.verifier import VerifierConfig
from inference.vlm.vlm import VlmConfig
from inference.vlm.yes_no_verifier import YesNoVerifierConfig
from microworld.family import micro_vlm
from microworld.scenes.world import Background, Scene, SceneObject, render
from recipes import catalogue
from schemas.configuration import output_config
from schemas.errors import InputError
from schemas.records import PromptRecord, Question

CONFIG = JudgeConfig("questions", questions=QuestionsJudgeConfig(micro_vlm(), prompt="micro/question"))


@pytest.fixture(scope="module")
def judge():
    return CONFIG.only_what_is_used().open()


@pytest.fixture(scope="module")
def images():
    def star(color, x):
        return SceneObject("star", color, x, 16.0, 9.0)

    scenes = [Scene(Background(), (star("red", 8.0), star("red", 24.0))), Scene(Background(), (star("blue", 16.0),))]
    return list(render(scenes).images)


def test_an_image_is_right_where_every_requirement_holds_and_what_fails_is_said(judge, images):
    asked = Question("Is there a red star?"), Question("How many stars are there?", "two")
    prompt = PromptRecord("one", "two red stars", "rule", questions=asked)
    right, wrong = judge_images(judge, images, [prompt] * 2)
    assert right.correct
    assert right.reasons == ()
    assert right.score > 0.8
    assert not wrong.correct
    assert wrong.score < 0.3
    assert len(wrong.reasons) == 2
    assert any(reason.startswith("Is there a red star?: Yes 0.") for reason in wrong.reasons)
    typed = judge_images(judge, images, [parse_prompt("a photo of a red star")] * 2)
    assert not typed[1].correct
    assert typed[0].score > typed[1].score


def test_any_prompt_is_judged_and_one_without_requirements_as_a_whole(judge, images):
    prompt = record_of('une étoile "rouge"\n🌟')
    (atom,) = atoms_asked(prompt)
    assert prompt.text.split()[0] in atom.text
    assert num_questions([prompt, parse_prompt("a photo of a red star")]) == 3
    (check,) = judge_images(judge, images[:1], [prompt])
    assert 0 <= check.score <= 1
    assert judge_images(judge, [], []) == []
    assert CONFIG.known_words() is None


def test_the_score_is_soft_tifa_s_geometric_mean():
    assert geometric_mean([0.25, 1.0]) == pytest.approx(0.5)
    assert geometric_mean([0.5, 0.0]) == 0
    assert geometric_mean([0.2] * 40) == pytest.approx(0.2)
    assert not math.isnan(geometric_mean([]))


def asks(model: str, **changes) -> VerifierConfig:
    vlm = VlmConfig(model=model) if model else VlmConfig(model="", base_url="http://host:1/v1", **changes)
    return VerifierConfig(("vlm",), vlm=YesNoVerifierConfig(vlm)).only_what_is_used(vlm)


def judged_by(model: str, **changes) -> QuestionsJudgeConfig:
    vlm = VlmConfig(model=model) if model else VlmConfig(model="", base_url="http://other:2/v1", **changes)
    return QuestionsJudgeConfig(vlm)


def test_a_model_that_chooses_does_not_judge_by_whatever_name(tmp_path):
    copy = shutil.copytree(resolve_model("micro/vlm"), tmp_path / "copy")
    served = {"endpoint_model": "Qwen3-VL-8B-Instruct"}
    same = [
        (judged_by("micro/vlm"), asks("micro/vlm")),
        (judged_by(str(copy)), asks("micro/vlm")),  # the same weights elsewhere
        (judged_by("micro/reflector"), asks("micro/vlm")),  # an adapter of them
        (judged_by("micro/vlm"), asks("micro/reflector")),
        (judged_by("", **served), asks("Qwen/Qwen3-VL-8B-Instruct")),  # not here, but its name says it
        (judged_by("Qwen/Qwen3-VL-8B-Instruct"), asks("", **served)),
        (judged_by("micro/vlm"), catalogue.load("micro", "search").tools.verifier.only_what_is_used(micro_vlm())),
    ]
    for judge, verifier in same:
        with pytest.raises(InputError, match="also chooses") as refused:
            judge.check_others(verifier)
        assert "--judge.questions.same-model" in str(refused.value.expected)
        replace(judge, same_model=True).check_others(verifier)
    judged_by("Qwen/Qwen3-VL-8B-Instruct").check_others(asks("micro/vlm"))
    judged_by("", endpoint_model="gpt-x").check_others(asks("", **served))
    # Whose device alone a verifier takes, it does not ask.
    trained = replace(catalogue.load("micro", "search").tools.verifier, kinds=("rewards",))
    judged_by("micro/vlm").check_others(trained.only_what_is_used(micro_vlm()))


@pytest.mark.parametrize("preset", catalogue.names("search"))
def test_a_preset_s_judge_of_questions_is_none_of_its_choosers(preset):
    job = catalogue.load(preset, "search")
    judge = job.judge.judge.questions
    if preset.startswith("micro"):  # it has one VLM: verifiers that need none may be taken
        job = replace(job, tools=replace(job.tools, verifier=replace(job.tools.verifier, kinds=("rewards",))))
    judge.check_others(job.tools.verifier.only_what_is_used(job.vlm))


def test_who_is_not_asked_is_no_part_of_a_run():
    """Runs of before, which knew no questions, keep their keys."""
    judge = catalogue.load("micro", "judge")
    before = output_config(replace(judge, questions=None), {})
    assert output_config(judge, {}) == before
    assert "questions" not in before
    asked = output_config(replace(judge, kind="questions").only_what_is_used(), {})
    assert asked["questions"]["prompt"] == "micro/question"
    allowed = replace(judge.questions, same_model=True)
    assert output_config(replace(judge, kind="questions", questions=allowed).only_what_is_used(), {}) == asked


def test_nobody_is_opened_and_nobody_is_named():
    nobody = JudgeConfig("none")
    assert not nobody.is_there
    assert nobody.label == "nobody"
    assert nobody.only_what_is_used() == JudgeConfig("none", None, None, None)
    for refuses in (nobody.open, nobody.known_words, nobody.required):
        with pytest.raises(InputError, match="nobody is to judge"):
            refuses()
