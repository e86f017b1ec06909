"""The distillation of a concept: what is learnt, what stays as it was, and what a kill leaves."""

import hashlib
import json
import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.dual_process.gradient_memory import kept_for_gradient
from inference.dual.concept import QuestionAnswer, concept_of
from inference.flux.generator import FluxGenerator
from schemas.errors import InputError, StoppedError, WorkFailedError
from tests.support.tiny_models import save_tiny_flux
from tests.support.tiny_teachers import QUESTION, tiny_concept, tiny_dual_process, tiny_flux_config, tiny_training
from trainers.concept_card import finished_key
from trainers.concept_training import why_not_learnt
from trainers.denoiser import add_lora, draw, remove_lora
from trainers.dual_process import NotConvergedError, as_uint8
from trainers.dual_process_config import DualProcessConfig
from trainers.flux_denoiser import LORA_TARGETS, FluxDenoiser
from trainers.kept_prompts import KeptPrompts

WEIGHTS = "pytorch_lora_weights.safetensors"
KEPT = {"keep_weight": 300.0, "keep_prompts": ("a photo of two blue rings", "a photo of a green heart")}


@pytest.fixture(scope="module")
def flux(tmp_path_factory):
    return save_tiny_flux(tmp_path_factory.mktemp("models") / "flux")


def bytes_of(module) -> str:
    """A digest of every frozen tensor of a model."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if "lora" not in name:
            digest.update(name.replace(".base_layer", "").encode() + value.numpy().tobytes())
    return digest.hexdigest()


def test_the_answer_becomes_more_probable(flux, tmp_path):
    models = tiny_dual_process(flux, steps=30, learning_rate=1e-2)
    found = models.distill(tiny_concept(), tmp_path)
    assert found.after.probability > 1.5 * found.before.probability
    assert len(found.curve) == 30
    assert found.curve[-1].loss < found.curve[0].loss


def test_what_is_frozen_does_not_change_by_a_byte(flux, tmp_path):
    models = tiny_dual_process(flux)
    pipeline = models.denoiser.pipeline
    parts = [pipeline.transformer, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2, models.teacher.model]
    before = [bytes_of(part) for part in parts]
    drawn = draw(models.denoiser, models.denoiser.encode("a photo of a red star"), [5])
    seen = []
    models.distill(tiny_concept(), tmp_path, lambda point: seen.append([bytes_of(part) for part in parts]))
    assert seen[-1] == before
    assert [bytes_of(part) for part in parts] == before
    assert draw(models.denoiser, models.denoiser.encode("a photo of a red star"), [5]).equal(drawn)


def test_the_saved_lora_draws_in_a_flux_pipeline_what_was_evaluated(flux, tmp_path):
    models = tiny_dual_process(flux, steps=3, learning_rate=1e-2)
    found = models.distill(tiny_concept(), tmp_path)
    generator = FluxGenerator(tiny_flux_config(flux))
    plain = generator.generate([found.concept.prompt] * 2, [0, 1])
    np.testing.assert_array_equal(plain, found.before.images)
    generator.pipeline.load_lora_weights(str(tmp_path))
    taught = generator.generate([found.concept.prompt] * 2, [0, 1])
    assert np.abs(np.subtract(taught, found.after.images, dtype=int)).max() <= 1  # alpha is in the weights there
    assert np.abs(np.subtract(plain, taught, dtype=int)).max() > 0
    warnings = []
    handler = logging.Handler()
    handler.emit = lambda record: warnings.append(record.getMessage())
    logging.getLogger("diffusers").addHandler(handler)
    fused = FluxGenerator(replace(tiny_flux_config(flux), lora=str(tmp_path)))
    logging.getLogger("diffusers").removeHandler(handler)
    assert not [text for text in warnings if "No LoRA keys" in text]
    difference = np.subtract(fused.generate([found.concept.prompt] * 2, [0, 1]), taught, dtype=int)
    assert np.abs(difference).max() <= 1


def test_a_loader_that_reads_no_header_draws_with_the_same_strength(flux, tmp_path):
    """diffusers' own, as for a file of anybody's who writes tensors alone; and peft's, of a configuration without
    alpha."""
    models = tiny_dual_process(flux, steps=3, learning_rate=1e-2, alpha_per_rank=5.0)
    found = models.distill(tiny_concept(), tmp_path)
    bare = tmp_path / "bare"
    bare.mkdir()
    save_file(load_file(tmp_path / WEIGHTS), bare / WEIGHTS)
    generator = FluxGenerator(tiny_flux_config(flux))
    generator.pipeline.load_lora_weights(str(bare))
    (adapter,) = generator.pipeline.transformer.peft_config.values()
    assert adapter.lora_alpha == adapter.r == 4
    taught = generator.generate([found.concept.prompt] * 2, [0, 1])
    difference = np.subtract(taught, found.after.images, dtype=int)
    assert np.abs(difference).max() <= 1
    moved = np.subtract(found.before.images, found.after.images, dtype=int)
    assert np.abs(moved).max() > 5


def test_true_guidance_is_taught_as_it_is_drawn(flux):
    config = replace(tiny_flux_config(flux), true_cfg_scale=3.0)
    generator = FluxGenerator(config)
    prompt = "a photo of a red star"
    drawn = generator.generate([prompt] * 2, [0, 1])
    denoiser = FluxDenoiser(generator)
    np.testing.assert_array_equal(as_uint8(draw(denoiser, denoiser.encode(prompt), [0, 1])), drawn)
    plain = FluxGenerator(tiny_flux_config(flux)).generate([prompt] * 2, [0, 1])
    assert not np.array_equal(drawn, plain)


def test_a_static_shift_moves_the_times_of_drawing_and_of_teaching_alike(flux):
    config = replace(tiny_flux_config(flux), shift=3.0)
    generator = FluxGenerator(config)
    drawn = generator.generate(["a photo of a red star"] * 2, [0, 1])
    denoiser = FluxDenoiser(generator)
    assert denoiser.times == pytest.approx((1.0, 3 * 0.5 / (1 + 2 * 0.5), 0.0))  # of two steps: 1 and 1/2 before
    np.testing.assert_array_equal(as_uint8(draw(denoiser, denoiser.encode("a photo of a red star"), [0, 1])), drawn)


def test_what_saves_memory_changes_no_weight(flux, tmp_path):
    tiny_dual_process(flux).distill(tiny_concept(), tmp_path / "plain")
    models = tiny_dual_process(flux, vae_checkpointing=True, text_encoders_wait=True, gradient_checkpointing=True)
    moved, kept = [], []
    move: Any = models.denoiser.text_encoders_to
    vae: Any = models.denoiser.vae
    models.denoiser.text_encoders_to = lambda device: (moved.append(device), move(device))
    models.distill(tiny_concept(), tmp_path / "spared")
    assert moved == ["cpu", "cpu"]
    assert vae.decoder.gradient_checkpointing
    plain, spared = (load_file(tmp_path / name / WEIGHTS) for name in ("plain", "spared"))
    assert all(torch.allclose(value, spared[key], atol=1e-6) for key, value in plain.items())
    text, z = models.denoiser.encode("a photo of a red star"), models.denoiser.noise([3])
    for checkpoints in (False, True):
        (vae.enable_gradient_checkpointing if checkpoints else vae.disable_gradient_checkpointing)()
        with kept_for_gradient((vae,)) as held:
            models.denoiser.decode(z.detach().requires_grad_())
        kept.append(held.num_bytes)
    assert kept[1] < 0.8 * kept[0]
    assert text.negative is None


def test_a_folder_without_a_lora_is_refused(flux, tmp_path):
    with pytest.raises(InputError, match="holds no LoRA"):
        FluxGenerator(replace(tiny_flux_config(flux), lora=str(tmp_path)))
    save_file({"transformer.x_embedder.lora_A.weight": torch.zeros(4, 7)}, tmp_path / WEIGHTS)
    with pytest.raises(InputError, match="would be applied in part"):
        FluxGenerator(replace(tiny_flux_config(flux), lora=str(tmp_path)))


class Killed(Exception):
    pass


@pytest.mark.parametrize(("killed_at", "kept"), [(1, {}), (3, {}), (4, {}), (3, KEPT)])
def test_killed_and_resumed_gives_the_same_weights(flux, tmp_path, killed_at, kept):
    models = tiny_dual_process(flux, **kept)
    models.distill(tiny_concept(), tmp_path / "whole")

    def kill(point):
        if point.step == killed_at:
            raise Killed

    with pytest.raises(Killed):
        models.distill(tiny_concept(), tmp_path / "killed", kill)
    assert finished_key(tmp_path / "killed") is None
    again = tiny_dual_process(flux, **kept)
    seen = []
    again.distill(tiny_concept(), tmp_path / "killed", lambda point: seen.append(point.step))
    assert seen == list(range(killed_at // 2 * 2 + (killed_at % 2) * 2, 6))  # a checkpoint after every second step
    whole, resumed = (load_file(tmp_path / name / WEIGHTS) for name in ("whole", "killed"))
    assert list(whole) == list(resumed)
    assert all(value.equal(resumed[name]) for name, value in whole.items())
    assert finished_key(tmp_path / "killed") == again.key_of(tiny_concept())


def test_kept_prompts_are_drawn_as_before_while_the_concept_is_learnt(flux, tmp_path):
    """How far each way of training takes the pixels of kept prompts, on noises that it never saw."""
    moved, learnt = [], []
    for name, kept in (("free", {}), ("kept", KEPT)):
        models = tiny_dual_process(flux, steps=30, learning_rate=1e-2, **kept)
        text = models.denoiser.encode(KEPT["keep_prompts"][0])
        before, after = draw(models.denoiser, text, range(8)), []
        found = models.distill(
            tiny_concept(),
            tmp_path / name,
            while_taught=lambda d=models.denoiser, t=text, seen=after: seen.append(draw(d, t, range(8))),
        )
        moved.append(float((after[0] - before).square().mean()))
        learnt.append(found.after.probability - found.before.probability)
    assert 0 < moved[1] < 0.5 * moved[0]
    assert learnt[1] > 0


def test_what_is_kept_costs_nothing_before_the_first_step(flux):
    denoiser = tiny_dual_process(flux).denoiser
    kept = KeptPrompts(denoiser, KEPT["keep_prompts"], [1, 2])
    assert float(kept.loss((0, 1), 4)) == 0
    parameters = add_lora(denoiser.network, 4, 4.0, LORA_TARGETS, 0)
    assert float(kept.loss((0, 1), 4).detach()) == 0
    for parameter in parameters:
        parameter.data.normal_(std=0.5)
    loss = kept.loss((0, 1), 4)
    loss.backward()
    assert float(loss.detach()) > 0
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in parameters)
    remove_lora(denoiser.network)


def test_a_prompt_that_is_taught_is_not_kept_as_it_is(flux, tmp_path):
    concept = tiny_concept()
    kept = {"keep_weight": 100.0, "keep_prompts": (concept.prompt,), "steps": 2}
    models, free = tiny_dual_process(flux, **kept), tiny_dual_process(flux, steps=2)
    held, alone = (one.distill(concept, tmp_path / name) for one, name in ((models, "held"), (free, "alone")))
    assert [point.loss for point in held.curve] == [point.loss for point in alone.curve]
    assert models.key_of(concept) != models.key_of(tiny_concept("other"))
    denoiser, ring = tiny_dual_process(flux).denoiser, "a photo of a ring"
    both, other = KeptPrompts(denoiser, (concept.prompt, ring), [1]), KeptPrompts(denoiser, (ring,), [1])
    for parameter in add_lora(denoiser.network, 4, 4.0, LORA_TARGETS, 0):
        parameter.data.normal_(std=0.5)
    with torch.no_grad():
        told = float(both.loss((0,), 99, [concept.prompt]))
        assert told == pytest.approx(float(other.loss((0,), 99)))
        assert told != pytest.approx(float(both.loss((0,), 99)))
    remove_lora(denoiser.network)


RING = concept_of("star", "a photo of a blue ring", [QuestionAnswer("Is there a blue ring?")])


def two_prompts():
    return concept_of("star", "a photo of a red star", [QUESTION], also=[RING])


def test_several_prompts_are_taught_in_turn_each_with_its_own_questions(flux, tmp_path, monkeypatch):
    models, asked = tiny_dual_process(flux, steps=4, learning_rate=1e-9), []
    losses = models.teacher.losses

    def listened(pixels, question):
        if pixels.requires_grad:
            asked.append(question.question)
        return losses(pixels, question)

    monkeypatch.setattr(models.teacher, "losses", listened)
    found = models.distill(two_prompts(), tmp_path / "both")
    assert asked == [QUESTION.question, "Is there a blue ring?"] * 2
    star, ring = (models.distill(one, tmp_path / one.prompt[-4:]) for one in (tiny_concept(), RING))
    wanted = [(star if n % 2 == 0 else ring).curve[n].loss for n in range(4)]  # nothing is learnt at this rate
    assert [point.loss for point in found.curve] == pytest.approx(wanted, rel=1e-4)
    assert [point.loss for point in found.curve] != pytest.approx([point.loss for point in star.curve], rel=1e-4)
    ((before, after),) = found.also
    assert np.array_equal(before.images, ring.before.images)
    card = json.loads((tmp_path / "both" / "card.json").read_text())
    (told,) = card["also"]
    assert (told["prompt"], [q["question"] for q in told["questions"]]) == (RING.prompt, ["Is there a blue ring?"])
    assert told["probability_after"] == pytest.approx(after.probability, abs=1e-4)
    assert f'"{RING.prompt}": {before.probability:.2f} before' in (tmp_path / "both" / "README.md").read_text()


def test_a_killed_training_of_several_prompts_goes_on_with_the_one_whose_turn_it_is(flux, tmp_path):
    models = tiny_dual_process(flux, steps=4, checkpoint_every=1)
    whole, seen = models.distill(two_prompts(), tmp_path / "whole"), []
    with pytest.raises(StoppedError):
        models.distill(two_prompts(), tmp_path / "parts", seen.append, stop=lambda: len(seen) == 3)
    parts = models.distill(two_prompts(), tmp_path / "parts")
    assert [point.loss for point in parts.curve] == [point.loss for point in whole.curve]


def test_a_prompt_of_several_that_is_not_learnt_is_named(flux, tmp_path):
    models = tiny_dual_process(flux, steps=2, min_probability=0.99)
    with pytest.raises(NotConvergedError, match="of 'a photo of a red star' the wanted"):
        models.distill(two_prompts(), tmp_path)
    kept = KeptPrompts(models.denoiser, ("a photo of a red star", RING.prompt), [1])
    taught = [one.prompt for one in two_prompts().taught]
    assert float(kept.loss((0,), 9, taught).detach()) == 0
    assert models.key_of(two_prompts()) != models.key_of(tiny_concept())


@pytest.mark.parametrize("changes", [{"keep_weight": 1.0}, {"keep_prompts": ("a",)}, {**KEPT, "keep_per_step": 0}])
def test_a_weight_without_prompts_and_prompts_without_a_weight_are_refused(flux, changes):
    with pytest.raises(InputError, match="keep_weight"):
        tiny_training(flux, **changes)


def test_checkpoints_of_other_settings_are_refused(flux, tmp_path):
    tiny_dual_process(flux).distill(tiny_concept(), tmp_path)
    with pytest.raises(InputError, match="other settings"):
        tiny_dual_process(flux, learning_rate=2e-3).distill(tiny_concept(), tmp_path)


def test_the_learning_rate_rises_over_the_first_steps(flux, tmp_path):
    models, rates = tiny_dual_process(flux, warmup_steps=4, learning_rate=4e-3), []

    def changed(point):
        lora = models.denoiser.network.state_dict()
        rates.append(max(float(v.abs().max()) for name, v in lora.items() if "lora_B" in name))

    models.distill(tiny_concept(), tmp_path, changed)
    assert rates[0] == pytest.approx(1e-3, rel=0.01)  # of Adam's first step, whatever the gradient
    assert rates[3] > 5 * rates[0]


def test_training_ends_early_when_the_answer_stays_sure(flux, tmp_path):
    models = tiny_dual_process(flux, stop_after=2, stop_probability=0.0)
    assert len(models.distill(tiny_concept(), tmp_path).curve) == 2


def test_a_concept_that_is_not_learnt_is_an_error_and_its_card_says_so(flux, tmp_path):
    models = tiny_dual_process(flux, min_probability=0.99)
    with pytest.raises(NotConvergedError, match=r"'star' is not learnt: after 6 steps"):
        models.distill(tiny_concept(), tmp_path)
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["converged"] is False
    assert (tmp_path / WEIGHTS).exists()
    assert "Not learnt" in (tmp_path / "README.md").read_text()
    assert not [name for name in models.denoiser.network.state_dict() if "lora" in name]


def test_what_no_answer_ever_half_believes_ends_early_and_says_so(flux, tmp_path):
    hopeless = {"hopeless_after": 3, "hopeless_probability": 0.999}
    with pytest.raises(
        NotConvergedError, match=r"after 3 steps the VLM has nothing to go by.* more probable than 0.999"
    ):
        tiny_dual_process(flux, **hopeless).distill(tiny_concept(), tmp_path / "hopeless")
    card = json.loads((tmp_path / "hopeless" / "card.json").read_text())
    assert not card["converged"]
    assert "hopeless_probability" in card["why_not"]
    best = [point["best"] for point in card["curve"]]
    assert len(best) == 3
    hopeful = {"hopeless_after": 3, "hopeless_probability": min(best)}  # one of the three is above it
    assert len(tiny_dual_process(flux, **hopeful).distill(tiny_concept(), tmp_path / "hopeful").curve) == 6


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        (0.1, 0.7, ""),
        (0.1, 0.3, "less than 0.5"),
        (0.9, 0.6, "did not rise"),
        (0.96, 0.97, "did not rise"),
        (0.0, 0.5, ""),
    ],
)
def test_learnt_is_what_rose_to_where_it_is_sure(before, after, says):
    said = why_not_learnt(before, after, False, DualProcessConfig())
    assert says in said if says else not said


def test_a_loss_that_is_no_number_names_concept_and_step(flux, tmp_path):
    models = tiny_dual_process(flux, learning_rate=float("inf"))
    with pytest.raises(WorkFailedError, match=r"'star', step 1: the loss is nan"):
        models.distill(tiny_concept(), tmp_path)
    assert tiny_dual_process(flux).distill(tiny_concept("next"), tmp_path / "next").curve


def test_the_card_shows_curve_and_grid(flux, tmp_path):
    from PIL import Image

    asked = [QUESTION, QuestionAnswer("How many objects are there?", "Two.")]
    models = tiny_dual_process(flux)
    found = models.distill(concept_of("two", "a photo of two stars", asked), tmp_path)
    card = json.loads((tmp_path / "card.json").read_text())
    assert [point["step"] for point in card["curve"]] == list(range(6))
    assert np.shape(card["probabilities_after"]) == (2, 2)
    assert card["probability_after"] == pytest.approx(found.after.probability, abs=1e-4)
    grid = Image.open(tmp_path / "grid.png")
    assert grid.height == 2 * (128 + 4)
    assert Image.open(tmp_path / "curve.png").width > 100
    assert "How many objects are there? **Two.**" in (tmp_path / "README.md").read_text()


def test_every_step_of_the_schedule_gets_its_turn_but_the_first_ones_where_asked(flux, tmp_path):
    every = tiny_dual_process(flux, steps=12).distill(tiny_concept(), tmp_path / "every")
    assert {point.at for point in every.curve} == {0, 1}
    late = tiny_dual_process(flux, earliest_step=1).distill(tiny_concept(), tmp_path / "late")
    assert {point.at for point in late.curve} == {1}


def test_the_last_step_of_a_schedule_estimates_what_is_drawn(flux):
    from trainers.denoiser import clean_estimate, denoise_to

    denoiser = tiny_dual_process(flux).denoiser
    text = denoiser.encode("a photo of a red star")
    z = denoise_to(denoiser, denoiser.noise([3]), text, 1)
    assert (as_uint8(clean_estimate(denoiser, z, text, 1)) == as_uint8(draw(denoiser, text, [3]))).all()


def test_seeds_that_are_trained_on_are_not_evaluated(flux):
    with pytest.raises(InputError, match="trained on too"):
        tiny_training(flux, first_seed=1)
    with pytest.raises(InputError, match="together at most 2"):
        tiny_training(flux, earliest_step=1, gradient_steps=2)


def test_a_gradient_through_all_steps_estimates_what_is_drawn(flux):
    from trainers.denoiser import clean_estimate

    denoiser = tiny_dual_process(flux).denoiser
    text = denoiser.encode("a photo of a red star")
    estimate = clean_estimate(denoiser, denoiser.noise([3]), text, 0, num_steps=2)
    assert (as_uint8(estimate) == as_uint8(draw(denoiser, text, [3]))).all()
