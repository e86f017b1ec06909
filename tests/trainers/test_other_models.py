"""Other teachers and generators behind the same Protocols, at tiny random sizes: Idefics2, Qwen3-VL, Sana."""

import json
import re
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from inference.dual.concept import QuestionAnswer
from inference.vlm.overlays import LineWeight
from schemas.errors import InputError
from tests.support.tiny_models.vlms import save_tiny_qwen3_vl
from tests.support.tiny_teachers import tiny_concept, tiny_teacher, tiny_training
from tests.support.tiny_vlm import tiny_tokenizer
from trainers.denoiser import draw
from trainers.denoiser_config import DenoiserConfig
from trainers.dual_process import DualProcess
from trainers.sana_denoiser import LORA_TARGETS, SanaConfig, SanaDenoiser
from trainers.vqa_loss import TeacherConfig, VqaTeacher, load_teacher

WEIGHTS = "pytorch_lora_weights.safetensors"
# It writes what idefics2-8b's own does: a turn that begins with text has a space before that, an image has none.
IDEFICS_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].capitalize() }}:"
    "{% if message['content'][0]['type'] == 'text' %} {% endif %}{% for line in message['content'] %}"
    "{% if line['type'] == 'text' %}{{ line['text'] }}{% else %}<image>{% endif %}"
    "{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


def tiny_idefics2():
    """Model and processor: SigLIP tower, perceiver of four tokens, Mistral; a tokenizer of the micro world's words."""
    import copy

    import torch
    from transformers import Idefics2Config, Idefics2ForConditionalGeneration, Idefics2ImageProcessor, Idefics2Processor

    tokenizer = copy.deepcopy(tiny_tokenizer())
    processor = Idefics2Processor(
        Idefics2ImageProcessor(size={"shortest_edge": 28, "longest_edge": 56}, do_image_splitting=True),
        tokenizer,
        image_seq_len=4,
        chat_template=IDEFICS_TEMPLATE,
    )
    torch.manual_seed(0)
    config = Idefics2Config(
        image_token_id=processor.image_token_id,
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 56,
            "patch_size": 14,
        },
        perceiver_config={
            "hidden_size": 32,
            "resampler_n_latents": 4,
            "resampler_depth": 1,
            "resampler_n_heads": 2,
            "resampler_head_dim": 16,
            "num_key_value_heads": 1,
        },
        text_config={
            "model_type": "mistral",
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
    )
    model = Idefics2ForConditionalGeneration(config)
    with torch.no_grad():  # random weights of transformers' size would hardly look at the image
        for parameter in model.parameters():
            parameter.mul_(4)
    return model, processor


@pytest.fixture(scope="module")
def idefics2():
    return tiny_idefics2()


def test_idefics2_gives_the_probability_that_it_answers_with(idefics2):
    import torch

    model, processor = idefics2
    teacher = VqaTeacher.of(model, processor)
    image = np.random.default_rng(1).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    asked = QuestionAnswer("Is there a red star?", "Yes")
    (found,) = teacher.probabilities(image[None], asked)
    text = "User:<image>Is there a red star? Answer with Yes or No.<end_of_utterance>\nAssistant:"
    inputs = processor(text=[text], images=[[Image.fromarray(image)]], return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0, -1]
    (first, *rest) = processor.tokenizer(" Yes", add_special_tokens=False).input_ids
    assert rest == []
    assert found == pytest.approx(float(logits.softmax(-1)[first]), rel=1e-3)


def test_idefics2_sends_a_gradient_to_the_pixels_through_an_overlay(idefics2):
    import torch

    teacher = VqaTeacher.of(*idefics2)
    images = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0)).requires_grad_()
    asked = QuestionAnswer("Is the line as thick?", "Yes", (LineWeight(0.1),))
    teacher.losses(images, asked).sum().backward()
    assert float(images.grad.abs().max()) > 0
    line = images.grad[:, :, 36:38, 10:30]  # the middle of the strip: what is below a solid line is not seen
    assert float(line.abs().max()) < 1e-3 * float(images.grad.abs().max())


def test_idefics2_loads_from_a_folder(idefics2, tmp_path):
    model, processor = idefics2
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, its_processor = load_teacher(tmp_path, "float32")
    image = np.full((1, 32, 32, 3), 90, np.uint8)
    asked = QuestionAnswer("Is there a red star?")
    expected = VqaTeacher.of(model, processor).probabilities(image, asked)
    np.testing.assert_allclose(VqaTeacher.of(loaded, its_processor).probabilities(image, asked), expected, rtol=1e-4)


def test_idefics2_whose_files_lack_a_tensor_is_refused_by_its_name(idefics2, tmp_path):
    model, processor = idefics2
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = next(name for name in tensors if name.endswith("q_proj.weight"))
    save_file({key: value for key, value in tensors.items() if key != name}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=rf"lack tensors of the model: .*{re.escape(name.rpartition('layers')[2])}"):
        load_teacher(tmp_path, "float32")


def test_qwen3_vl_is_asked_by_its_own_template_and_gives_the_probability_of_each_token(tmp_path):
    import torch

    teacher = VqaTeacher(TeacherConfig(str(save_tiny_qwen3_vl(tmp_path))))
    model, processor = teacher.model, teacher.processor
    image = np.random.default_rng(2).integers(0, 256, (48, 32, 3), dtype=np.uint8)
    (found,) = teacher.probabilities(image[None], QuestionAnswer("Is it red?", "Yes"))
    asked = processor.apply_chat_template(
        [
            {
                "role": "user",
                "content": [{"type": "image"}, {"type": "text", "text": "Is it red? Answer with Yes or No."}],
            }
        ],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,
    )
    ids = processor.tokenizer("Yes", add_special_tokens=False).input_ids
    inputs = processor(text=[asked + "Yes"], images=[image], return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0, -len(ids) - 1 : -1]
    product = float(logits.softmax(-1)[range(len(ids)), ids].prod())
    assert len(ids) == 3
    assert found == pytest.approx(product, rel=1e-2)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    teacher.losses(images, QuestionAnswer("Is it red?")).sum().backward()
    assert float(images.grad.abs().max()) > 0


def tiny_sana():
    """A random `SanaPipeline` for pictures of 16 px."""
    import torch
    from diffusers import AutoencoderDC, FlowMatchEulerDiscreteScheduler, SanaPipeline, SanaTransformer2DModel
    from transformers import Gemma2Config, Gemma2Model

    torch.manual_seed(0)
    transformer = SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=8,
        sample_size=32,
    )
    vae = AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=cast(Any, ("ResBlock", "EfficientViTBlock")),
        decoder_block_types=cast(Any, ("ResBlock", "EfficientViTBlock")),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    )
    tokenizer = tiny_tokenizer()
    text_encoder = Gemma2Model(
        Gemma2Config(
            head_dim=16,
            hidden_size=8,
            intermediate_size=8,
            num_attention_heads=2,
            num_hidden_layers=1,
            num_key_value_heads=2,
            vocab_size=len(tokenizer),
        )
    )
    scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return SanaPipeline(tokenizer, text_encoder, vae, transformer, scheduler)


def test_sana_is_taught_one_step_and_its_lora_loads_in_its_pipeline(tmp_path):
    tiny_sana().save_pretrained(tmp_path / "sana")
    sana = SanaConfig(str(tmp_path / "sana"), 2, 16, max_text_length=16, dtype="float32", device="cpu")
    generator = DenoiserConfig("sana", sana=sana)
    config = tiny_training(tmp_path, generator=generator, gradient_steps=1, steps=1, learning_rate=1e-2)
    models = DualProcess(config, teacher=tiny_teacher())
    denoiser: Any = models.denoiser
    assert type(denoiser) is SanaDenoiser
    text: Any = denoiser.encode("a photo of a red star")
    plain = draw(denoiser, text, [0, 1])
    found = models.distill(tiny_concept(), tmp_path / "out")
    assert len(found.curve) == 1
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["config"]["generator"]["model"] == str(tmp_path / "sana")
    assert card["config"]["lora_targets"] == list(LORA_TARGETS)
    assert "`SanaPipeline.load_lora_weights`" in (tmp_path / "out" / "README.md").read_text()
    assert draw(denoiser, text, [0, 1]).equal(plain)
    one, both = (denoiser.velocity(denoiser.noise([0]), 1.0, which) for which in (replace(text, negative=None), text))
    apart = denoiser.velocity(denoiser.noise([0]), 1.0, text.negative)
    torch.testing.assert_close(both, apart + 4.5 * (one - apart))
    denoiser.pipeline.load_lora_weights(str(tmp_path / "out"))
    taught = draw(denoiser, text, [0, 1])
    assert not taught.equal(plain)
    moved = (taught.permute(0, 2, 3, 1).numpy() * 255).round() - found.after.images
    assert np.abs(moved).max() <= 1  # alpha is in the weights there
