"""The VQA loss: the same probabilities as the VLM's own, and gradients as finite differences say."""

import numpy as np
import pytest

from inference.dual.concept import QuestionAnswer, ReferenceImage
from inference.interfaces import ChatRequest
from inference.vlm.in_process import InProcessVlm
from inference.vlm.overlays import HorizonPosition, overlay_image
from microworld.family import micro_qwen
from schemas.errors import InputError
from tests.support.tiny_models import save_tiny_flux
from tests.support.tiny_teachers import QUESTION, tiny_denoiser, tiny_teacher
from trainers.denoiser import add_lora, clean_estimate, lora_parameters
from trainers.flux_denoiser import LORA_TARGETS
from trainers.vqa_loss import TeacherConfig, load_teacher


@pytest.fixture(scope="module")
def teacher():
    return tiny_teacher()


@pytest.fixture
def images():
    return np.random.default_rng(3).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)


def test_the_probability_of_yes_is_the_one_that_the_vlm_answers_with(teacher, images):
    vlm = InProcessVlm.of(teacher.model, teacher.processor, micro_qwen())
    requests = [ChatRequest("Is there a red star? Answer with Yes or No.", (image,)) for image in images]
    told = np.stack(list(vlm._next(requests, range(len(requests)), [()] * len(requests))))
    for answer in ("Yes", "No"):
        (token,) = teacher.processor.tokenizer(answer, add_special_tokens=False).input_ids
        found = teacher.probabilities(images, QuestionAnswer("Is there a red star?", answer))
        np.testing.assert_allclose(found, told[:, token], rtol=1e-3)


def test_an_answer_of_several_tokens_is_the_product_of_its_tokens(teacher, images):
    import torch

    answer = "Two red stars."
    (image,) = images[:1]
    found = teacher.probabilities(image[None], QuestionAnswer("What is there?", answer))
    text = teacher.processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is there?"}]}],
        tokenize=False,
        add_generation_prompt=True,
    )
    ids = teacher.processor.tokenizer(answer, add_special_tokens=False).input_ids
    assert len(ids) > 2
    product = 1.0
    for count, token in enumerate(ids):
        said = teacher.processor.tokenizer.decode(ids[:count])
        inputs = teacher.processor(text=[text + said], images=[image], return_tensors="pt")
        with torch.no_grad():
            product *= float(teacher.model(**inputs).logits[0, -1].softmax(-1)[token])
    assert found[0] == pytest.approx(product, rel=1e-3)


def test_the_postfix_stands_behind_yes_no_questions_alone(teacher):
    assert teacher.question_text(QuestionAnswer("Is it?", "No")) == "Is it? Answer with Yes or No."
    assert teacher.question_text(QuestionAnswer("Is it? Answer with Yes or No.")).count("Answer") == 1
    assert teacher.question_text(QuestionAnswer("How many?", "Two.")) == "How many?"
    assert teacher.question_text(QuestionAnswer("How many?", "Two", postfix="In one word.")) == "How many? In one word."
    assert teacher.question_text(QuestionAnswer("Is it?", "No", postfix="")) == "Is it?"


def test_what_is_drawn_over_an_image_is_what_the_vlm_is_shown(teacher, images):
    asked = QuestionAnswer("Is the horizon at the red line?", "Yes", (HorizonPosition(0.5),))
    drawn = np.stack([overlay_image(image, asked.overlays[0]) for image in images])
    without = QuestionAnswer(asked.question, asked.answer)
    plain, over, by_hand = (
        teacher.probabilities(i, q) for i, q in ((images, without), (images, asked), (drawn, without))
    )
    np.testing.assert_allclose(over, by_hand, rtol=5e-3)
    assert np.abs(over - plain).max() > 1e-6


def test_a_solid_reference_hides_and_a_transparent_one_shows_half():
    picture = np.zeros((8, 8, 4), np.uint8)
    picture[:4, :, 3] = 255
    solid = ReferenceImage(picture, "?", "solid").layer(8, 8)
    half = ReferenceImage(picture, "?").layer(8, 8)
    assert solid[0, 0, 3] == 1
    assert half[0, 0, 3] == 0.5
    assert solid[7, 0, 3] == half[7, 0, 3] == 0


def test_sixteen_bits_are_widened_before_an_image_is_resized(teacher):
    import torch

    images = torch.rand(1, 3, 45, 45, generator=torch.Generator().manual_seed(0)).bfloat16()
    seen = teacher.seen(images, QUESTION)
    assert seen.dtype == torch.float32
    assert seen.shape[-1] != 45  # it was resized
    assert seen.equal(teacher.seen(images.float(), QUESTION))


def test_what_is_beyond_black_and_white_is_cut_off_or_stretched_with_a_gradient():
    import torch

    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 0.5
    cut, stretching = tiny_teacher(), tiny_teacher(pixel_range="min-max")
    seen = stretching.seen(images, QUESTION)
    low, high = images.amin((1, 2, 3), True), images.amax((1, 2, 3), True)
    torch.testing.assert_close(seen, (images - low) / (high - low))
    assert cut.seen(images, QUESTION).equal(images.clamp(0, 1))
    beyond = (images < 0) | (images > 1)
    for teacher, moves in ((cut, False), (stretching, True)):
        pixels = images.clone().requires_grad_()
        teacher.losses(pixels, QUESTION).sum().backward()
        assert bool(pixels.grad[beyond].any()) == moves


def test_a_model_of_another_kind_is_refused(tmp_path):
    from transformers import CLIPConfig

    CLIPConfig().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="clip"):
        load_teacher(tmp_path, "float32")


def test_gradient_through_decoder_preprocessing_and_vlm_to_the_lora_is_what_finite_differences_say(tmp_path):
    import torch

    denoiser, teacher = tiny_denoiser(save_tiny_flux(tmp_path / "flux")), tiny_teacher(1)
    asked = QuestionAnswer(QUESTION.question, "Yes", (HorizonPosition(0.3),))
    pipeline = denoiser.pipeline
    for part in (pipeline.transformer, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2, teacher.model):
        part.double()
    add_lora(denoiser.network, 4, 20.0, LORA_TARGETS, 0)
    generator = torch.Generator().manual_seed(5)
    parameters = lora_parameters(denoiser.network)
    with torch.no_grad():
        for parameter in parameters.values():  # at the start half of them are zero, and so the others' gradients
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.1)
    text, z = denoiser.encode("a photo of a red star"), denoiser.noise([1, 2])
    assert z.dtype == torch.float64

    def loss():
        return teacher.losses(clean_estimate(denoiser, z, text, 1), asked).sum()

    gradients = torch.autograd.grad(loss(), list(parameters.values()))
    assert all(float(g.abs().max()) > 0 for g in gradients)
    for _ in range(3):
        directions = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters.values()]
        analytic = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
        values = {}
        for steps in (-2, -1, 1, 2):
            with torch.no_grad():
                for parameter, direction in zip(parameters.values(), directions, strict=True):
                    parameter.add_(direction, alpha=steps * STEP)
                values[steps] = float(loss())
                for parameter, direction in zip(parameters.values(), directions, strict=True):
                    parameter.sub_(direction, alpha=steps * STEP)
        measured = (8 * (values[1] - values[-1]) - (values[2] - values[-2])) / (12 * STEP)
        assert measured == pytest.approx(analytic, rel=2e-3, abs=ROUNDING)


# The models compute norms and angles in float32 whatever their type: the loss is rounded by about 1e-7, which a step of
# this length turns into 5e-4 of the slope (seen: .0931 and .0936); a longer one meets the loss's curvature.
STEP, ROUNDING = 2e-4, 1.5e-3


def test_the_defaults_teach_with_the_micro_vlm():
    assert TeacherConfig("micro/vlm").model == "micro/vlm"
