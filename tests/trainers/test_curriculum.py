"""Easier questions first: what waits, what counts, and what a kill leaves."""

import json

import pytest
import torch
from safetensors.torch import load_file

from inference.dual.concept import QuestionAnswer, concept_of
from schemas.errors import InputError
from tests.support.tiny_models import save_tiny_flux
from tests.support.tiny_teachers import QUESTION, tiny_dual_process, tiny_training
from trainers.concept_training import ConceptTraining, why_not_all
from trainers.denoiser import add_lora, remove_lora
from trainers.distilled import Evaluated
from trainers.dual_process import NotConvergedError
from trainers.dual_process_config import DualProcessConfig

WEIGHTS = "pytorch_lora_weights.safetensors"
HARDER = QuestionAnswer("Are there three blue rings?")


@pytest.fixture(scope="module")
def flux(tmp_path_factory):
    return save_tiny_flux(tmp_path_factory.mktemp("models") / "flux")


def concept(*questions):
    return concept_of("stairs", "a photo of a red star", questions or (QUESTION, HARDER))


def learnt(flux, out, *questions, **changes):
    """Curve and weights of a training."""
    found = tiny_dual_process(flux, **changes).distill(concept(*questions), out)
    return found.curve, load_file(out / WEIGHTS)


def are_close(one, other):
    return all(torch.allclose(value, other[name], atol=1e-5) for name, value in one.items())


def test_what_waits_for_ever_teaches_nothing_and_what_never_waits_teaches_as_all_at_once(flux, tmp_path):
    first, alone = learnt(flux, tmp_path / "alone", QUESTION, steps=2)
    curve, waiting = learnt(flux, tmp_path / "waiting", curriculum=0.999, steps=2)
    assert {point.asked for point in curve} == {1}
    assert curve[0].loss == pytest.approx(first[0].loss)
    assert curve[0].probability == pytest.approx(first[0].probability / 2)  # of two answers, one unasked for
    assert are_close(alone, waiting)
    curve, at_once = learnt(flux, tmp_path / "at_once", steps=2)
    in_turn, never_waiting = learnt(flux, tmp_path / "in_turn", curriculum=1e-30, steps=2)
    assert {point.asked for point in [*curve, *in_turn]} == {2}
    assert [p.probability for p in in_turn] == pytest.approx([p.probability for p in curve], rel=1e-3)
    assert are_close(at_once, never_waiting)
    assert not are_close(at_once, waiting)


def test_each_image_goes_its_own_way(flux, tmp_path):
    """Of two images one gets the first answer: it alone is asked the second question, and the mean is of the three."""
    models = tiny_dual_process(flux)
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    sure = (-models.teacher.losses(pixels, QUESTION)).exp()
    between = float(sure.mean())
    models = tiny_dual_process(flux, curriculum=between)
    parameters = add_lora(models.denoiser.network, 4, 4.0, models.config.targets, 0)
    training = ConceptTraining(models, concept(), [models.denoiser.encode("a star")], parameters, tmp_path)
    seen = pixels.clone().requires_grad_()
    every, counts = training._asked_in_turn(training.concept.questions, seen, 0, (1, 2))
    remove_lora(models.denoiser.network)
    further = int(sure.argmax())
    assert counts.tolist() == [[True, True], [further == 0, further == 1]]
    by_hand = pixels.clone().requires_grad_()
    easy, hard = models.teacher.losses(by_hand, QUESTION), models.teacher.losses(by_hand[[further]], HARDER)
    ((easy.sum() + hard.sum()) / 3).backward()
    assert every[counts].mean() == pytest.approx(float((easy.sum() + hard.sum()).detach() / 3), rel=1e-4)
    assert seen.grad is not None
    assert by_hand.grad is not None
    assert torch.allclose(seen.grad, by_hand.grad, atol=1e-6)


class Killed(Exception):
    pass


def test_killed_on_the_way_it_goes_on_to_the_same_weights(flux, tmp_path):
    first, _ = learnt(flux, tmp_path / "alone", QUESTION)
    answers = sorted(point.probability for point in first)
    threshold = answers[len(answers) // 2]
    curve, whole = learnt(flux, tmp_path / "whole", curriculum=threshold)
    assert {point.asked for point in curve} == {1, 2}, "the second question comes and goes"

    def kill(point):
        if point.step == 3:
            raise Killed

    with pytest.raises(Killed):
        tiny_dual_process(flux, curriculum=threshold).distill(concept(), tmp_path / "killed", kill)
    again, resumed = learnt(flux, tmp_path / "killed", curriculum=threshold)
    assert again == curve
    assert all(value.equal(resumed[name]) for name, value in whole.items())
    with pytest.raises(InputError, match="other settings"):
        learnt(flux, tmp_path / "killed", curriculum=0.0)


def test_a_question_that_was_never_asked_is_named(flux, tmp_path):
    with pytest.raises(NotConvergedError, match=r"'Are there three blue rings\?' was never asked"):
        tiny_dual_process(flux, curriculum=0.999, min_probability=0.99).distill(concept(), tmp_path)
    card = json.loads((tmp_path / "card.json").read_text())
    assert "(curriculum)" in card["why_not"]
    assert {point["asked"] for point in card["curve"]} == {1}


def test_an_easy_answer_hides_no_hard_one():
    import numpy as np

    def after(*columns):
        return Evaluated(np.zeros((2, 8, 8, 3), np.uint8), np.array(columns).T)

    said = why_not_all(concept(), after((1.0, 0.98), (0.1, 0.3)), DualProcessConfig())
    assert said.startswith("the wanted answer to 'Are there three blue rings?' has probability 0.20, less than 0.5")
    assert not why_not_all(concept(), after((1.0, 0.98), (0.9, 0.3)), DualProcessConfig())


@pytest.mark.parametrize("wrong", [-0.1, 1.0, 7.0, float("nan")])
def test_a_threshold_that_no_answer_meets_or_all_do_is_refused(flux, wrong):
    with pytest.raises(InputError, match="more probable than"):
        tiny_training(flux, curriculum=wrong)
