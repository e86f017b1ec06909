"""A training that fools its teacher is noticed by a second VLM, ends, and is called fooled; and options against being
fooled leave a training the same through a kill."""

import json
import pickle
import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from inference.dual.concept import QuestionAnswer, concept_of
from inference.vlm.overlays import HorizonPosition
from pipelines.distill import ConceptWorker, Named, summary_line
from schemas.errors import InputError, MissingWeightsError
from tests.support.tiny_models import save_tiny_flux
from tests.support.tiny_teachers import QUESTION, tiny_denoiser, tiny_dual_process, tiny_teacher, tiny_training
from tests.support.tiny_vlm import save_tiny_vlm
from trainers.augmentation import AugmentationConfig
from trainers.concept_card import finished_key
from trainers.dual_process import DualProcess, FooledError, check_vlms
from trainers.dual_process_config import DualProcessConfig
from trainers.referee import Referee, RefereeConfig, mean_answers
from trainers.vqa_loss import TeacherConfig, VqaTeacher

WEIGHTS = "pytorch_lora_weights.safetensors"
ASKED = replace(QUESTION, paraphrases=("Can a red star be seen?",))
LINE = QuestionAnswer("Is the horizon at the red line?", "Yes", (HorizonPosition(0.4),))
STAR = concept_of("star", "a photo of a red star", [ASKED, LINE])


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A FLUX, and a VLM to look on."""
    folder = tmp_path_factory.mktemp("models")
    return save_tiny_flux(folder / "flux"), str(save_tiny_vlm(folder / "vlm", seed=0))


@pytest.fixture
def others(models):
    """Settings of a training with every option against being fooled."""
    flux, vlm = models
    referee = RefereeConfig(vlm, every=2, num_images=2, sure=1.0, doubtful=0.0)  # random VLMs: they never part
    augmentation = AugmentationConfig(shift=0.1, zoom=0.1, brightness=0.1, blur=0.02, noise=0.05)
    return flux, {"referee": referee, "augmentation": augmentation}


class Killed(Exception):
    pass


SETTINGS = {"steps": 12, "learning_rate": 1e-2, "checkpoint_every": 3}
ONE = concept_of("star", "a photo of a red star", [QUESTION])


def taught(flux, **changes):
    """By the teacher that is fooled."""
    return DualProcess(tiny_training(flux, **{**SETTINGS, **changes}), tiny_denoiser(flux), tiny_teacher(1))


@pytest.fixture(scope="module")
def fooled(models, tmp_path_factory):
    """A training whose random teacher is pleased, and ended by a referee of other random weights, which is not: its
    folder, its settings, and the same training where nobody ended it. The bounds lie between what the two then say."""
    out, (flux, vlm) = tmp_path_factory.mktemp("fooled"), models
    looks_on = RefereeConfig(vlm, every=2, num_images=2, sure=1.0, doubtful=0.0)
    whole = taught(flux, referee=looks_on).distill(ONE, out / "free")
    assert [look.step for look in whole.looks] == [0, 2, 4, 6, 8, 10, 12]
    told = [look.teacher[0] for look in whole.looks]
    sure = (max(told[:3]) + told[3]) / 2  # crossed between steps 4 and 6
    settings = {"referee": replace(looks_on, sure=sure, doubtful=sure / 2)}
    with pytest.raises(FooledError, match="is fooled: after 6 steps") as ended:
        taught(flux, **settings).distill(ONE, out / "star")
    assert "not learnt" not in str(ended.value)
    assert ended.value.distilled.fooled is not None
    assert len(ended.value.distilled.curve) == 6
    passed_on = pickle.loads(pickle.dumps(ended.value))
    assert (type(passed_on), str(passed_on)) == (FooledError, str(ended.value))
    assert passed_on.distilled.why_not == ended.value.distilled.why_not
    return out, settings, whole


def test_a_training_that_fools_its_teacher_ends_and_says_so(fooled):
    out, settings, whole = fooled
    card = json.loads((out / "star" / "card.json").read_text())
    assert card["fooled"]
    assert not card["converged"]
    assert card["steps"] == 6
    assert "the VLM is fooled: after 6 steps" in card["why_not"]
    referee = card["referee"]
    assert (referee["parted_at"], referee["parted_over"], referee["kept_step"]) == (6, 0, 4)
    # Both curves, the same as where nobody ended it: to look on changes nothing.
    assert referee["looks"] == json.loads((out / "free" / "card.json").read_text())["referee"]["looks"][:4]
    assert [point.loss for point in whole.curve[:6]] == [point["loss"] for point in card["curve"]]
    text = (out / "star" / "README.md").read_text()
    assert "**Fooled**" in text
    assert "Not learnt" not in text
    assert Image.open(out / "star" / "grid.png").height == 3 * (128 + 4)  # before, kept, and what fooled it
    assert settings["referee"].model in card["why_not"]


def test_what_is_kept_is_of_the_last_look_at_which_they_had_not_parted(fooled, models, tmp_path):
    out, _, _ = fooled
    taught(models[0], steps=4).distill(ONE, tmp_path)
    kept, of_four = load_file(out / "star" / WEIGHTS), load_file(tmp_path / WEIGHTS)
    assert all(value.equal(of_four[name]) for name, value in kept.items())


def test_killed_before_they_part_it_is_fooled_all_the_same_with_the_same_lora(fooled, models, tmp_path):
    out, settings, _ = fooled

    def kill(point):
        if point.step == 4:
            raise Killed

    with pytest.raises(Killed):
        taught(models[0], **settings).distill(ONE, tmp_path, kill)
    again, seen = taught(models[0], **settings), []
    with pytest.raises(FooledError, match="after 6 steps"):
        again.distill(ONE, tmp_path, lambda point: seen.append(point.step))
    assert seen == [3, 4, 5]  # the killed step is in no checkpoint
    kept, resumed = (load_file(folder / WEIGHTS) for folder in (out / "star", tmp_path))
    assert all(value.equal(resumed[name]) for name, value in kept.items())
    cards = [json.loads((folder / "card.json").read_text()) for folder in (out / "star", tmp_path)]
    assert cards[0]["referee"] == cards[1]["referee"]


def test_distill_calls_it_fooled_and_makes_it_once(fooled, models, tmp_path):
    _, settings, _ = fooled
    file = tmp_path / "star.yaml"
    file.write_text(f"name: star\nprompt: a photo of a red star\nqa_pairs: [{{question: {QUESTION.question!r}}}]\n")
    loaded = taught(models[0], **settings)
    worker = ConceptWorker(tmp_path / "out", loaded.config, loaded)
    outcome = worker.make(Named(file, "star"))
    assert outcome.status == "fooled"
    assert not outcome.is_learnt
    line = summary_line(outcome)
    assert line.startswith("star: fooled")
    assert "the referee" in line
    assert "learnt" not in line
    card = (tmp_path / "out" / "star" / "card.json").stat().st_mtime_ns
    assert worker.make(Named(file, "star")).status == "fooled"
    assert (tmp_path / "out" / "star" / "card.json").stat().st_mtime_ns == card


def test_where_they_differ_before_the_first_step_nothing_is_trained(fooled, models, tmp_path):
    _, settings, whole = fooled
    sure = whole.looks[0].teacher[0]
    bounds = replace(settings["referee"], sure=sure, doubtful=sure / 2)
    with pytest.raises(FooledError, match=r"before the first step .* One of the two cannot be asked this"):
        taught(models[0], referee=bounds).distill(ONE, tmp_path)
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["steps"] == 0
    assert card["probability_after"] == card["probability_before"]


@pytest.mark.parametrize("killed_at", [2, 3])
def test_with_augmentation_paraphrases_and_a_referee_killed_and_resumed_it_gives_the_same_lora(
    others, tmp_path, killed_at
):
    flux, settings = others
    whole = tiny_dual_process(flux, **settings).distill(STAR, tmp_path / "whole")

    def kill(point):
        if point.step == killed_at:
            raise Killed

    with pytest.raises(Killed):
        tiny_dual_process(flux, **settings).distill(STAR, tmp_path / "killed", kill)
    again = tiny_dual_process(flux, **settings)
    resumed = again.distill(STAR, tmp_path / "killed")
    first, second = (load_file(tmp_path / name / WEIGHTS) for name in ("whole", "killed"))
    assert all(value.equal(second[name]) for name, value in first.items())
    assert resumed.looks == whole.looks
    assert [look.step for look in whole.looks] == [0, 2, 4, 6]
    assert finished_key(tmp_path / "killed") == again.key_of(STAR)
    plain = tiny_dual_process(flux).distill(STAR, tmp_path / "plain")
    assert [p.loss for p in plain.curve] != [p.loss for p in whole.curve]


def noted(teacher: VqaTeacher) -> list[str]:
    """What it is asked from now on, in the words in which it is."""
    words, losses = [], teacher.losses

    def asking(images, asked):
        words.append(asked.question)
        return losses(images, asked)

    teacher.losses = asking
    return words


def test_a_step_asks_one_wording_and_an_evaluation_all(models):
    dual = tiny_dual_process(models[0])
    asked = noted(dual.teacher)
    shown = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    found = mean_answers(dual.teacher, shown, [ASKED], 2)
    assert asked == [QUESTION.question, ASKED.paraphrases[0]] * 2
    each = [dual.teacher.probabilities(shown, replace(ASKED, question=q, paraphrases=())) for q in asked[:2]]
    np.testing.assert_allclose(found[:, 0], np.mean(each, 0), rtol=1e-5)


def test_each_step_asks_in_other_words(models, tmp_path):
    dual = tiny_dual_process(models[0], steps=8, num_evaluated=1)
    asked = noted(dual.teacher)
    dual.distill(concept_of("star", "a photo of a red star", [ASKED]), tmp_path)
    trained = asked[2:-2]  # one image is evaluated before and after, in both wordings
    assert len(trained) == 8
    assert set(trained) == {QUESTION.question, ASKED.paraphrases[0]}


@pytest.mark.parametrize(
    ("teacher", "referee", "parts"),
    [(0.6, 0.2, True), (0.6, 0.3, False), (0.4, 0.0, False), (0.5, 0.249, True), (0.9, 0.25, False)],
)
def test_they_have_parted_where_the_teacher_is_sure_and_the_referee_doubtful(teacher, referee, parts):
    def vlm(value):
        made = tiny_teacher()
        made.probabilities = lambda images, asked: np.full(len(images), value[asked.question], np.float32)
        return made

    asked = [QuestionAnswer("a"), QuestionAnswer("b")]
    told, seen = {"a": 0.9, "b": teacher}, {"a": 0.9, "b": referee}
    looking = Referee(RefereeConfig("x"), vlm(seen), vlm(told), asked)
    looking.look(20, np.zeros((2, 8, 8, 3), np.uint8), {}, 2)
    assert looking.parted_over == (1 if parts else None)  # the mean over both questions would hide it


def test_the_teacher_is_no_referee_by_name_or_by_weights(models, tmp_path):
    flux, vlm = models
    with pytest.raises(InputError, match="looks on at its own lessons") as refused:
        tiny_training(flux, teacher=TeacherConfig(vlm), referee=RefereeConfig(vlm))
    assert refused.value.field == "referee.model"
    twin = shutil.copytree(vlm, tmp_path / "twin")
    config = tiny_training(flux, teacher=TeacherConfig(vlm), referee=RefereeConfig(str(twin)))
    with pytest.raises(InputError, match="own lessons"):
        check_vlms(config)
    check_vlms(tiny_training(flux, teacher=TeacherConfig(vlm), referee=RefereeConfig(vlm, same_as_teacher=True)))


def test_what_cannot_look_on_is_told_by_name_before_anything_is_loaded(models):
    flux, vlm = models
    with pytest.raises(InputError) as refused:
        check_vlms(tiny_training(flux, teacher=TeacherConfig(vlm), referee=RefereeConfig(str(flux))))
    assert "config.json" in str(refused.value)
    with pytest.raises(MissingWeightsError, match="some/vlm"):
        check_vlms(tiny_training(flux, referee=RefereeConfig("some/vlm")))
    assert "some/vlm" in tiny_training(flux, referee=RefereeConfig("some/vlm")).models
    broken: list[dict[str, Any]] = [{"every": 0}, {"sure": 0.2, "doubtful": 0.4}, {"num_images": 0}, {"model": ""}]
    for changes in broken:
        with pytest.raises(InputError):
            RefereeConfig(**{"model": vlm, **changes})
    with pytest.raises(InputError, match="the stretch takes it back"):
        DualProcessConfig(teacher=TeacherConfig(pixel_range="min-max"), augmentation=AugmentationConfig(brightness=0.1))
