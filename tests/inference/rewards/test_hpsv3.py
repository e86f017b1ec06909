"""HPSv3: the published code's formula on a tiny Qwen2-VL, and what is refused."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from inference.rewards.hpsv3 import REWARD_TOKEN, Hpsv3Config, Hpsv3Reward
from schemas.errors import InputError, MissingWeightsError
from tests.support.tiny_models.rewards import save_tiny_hpsv3

RNG = np.random.default_rng(0)
IMAGES = [RNG.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((64, 64), (30, 90), (700, 500))]
PROMPTS = ["a photo of two red circles", "Très {étrange}: {prompt}", "a"]
WORDS = "\nRate it.\nThe prompt - {text_prompt}\n\n\n\nOverall: " + REWARD_TOKEN + "\n\nEND\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = save_tiny_hpsv3(tmp_path_factory.mktemp("hpsv3"))
    (made / "words.txt").write_text(WORDS)
    return made


@pytest.fixture(scope="module")
def config(folder):
    words = str(folder / "words.txt")
    return Hpsv3Config(str(folder), str(folder / "base"), template=words, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def reward(config):
    return config.open()


def published(folder, images, prompts) -> list[float]:
    """What hpsv3 1.0.0 computes (qwen2vl_trainer.py: forward; inference.py: prepare_batch), in a padded batch: the
    whole model, embeddings put together by hand, positions counted from 0. (Its own class under transformers 4.45.2
    gave the same on this folder, to six digits.)"""
    import torch
    from transformers import AutoProcessor, Qwen2VLConfig, Qwen2VLForConditionalGeneration

    processor: Any = AutoProcessor.from_pretrained(folder / "base", padding_side="right")
    processor.tokenizer.add_special_tokens({"additional_special_tokens": [REWARD_TOKEN]})
    token = processor.tokenizer.convert_tokens_to_ids(REWARD_TOKEN)
    tensors = load_file(folder / "HPSv3.safetensors")
    settings: Any = Qwen2VLConfig.from_pretrained(folder / "base")
    settings.text_config.vocab_size = len(processor.tokenizer)
    model: Any = Qwen2VLForConditionalGeneration(settings).eval()
    names = {
        n.replace("model.language_model.", "model.").replace("model.visual.", "visual."): n for n in model.state_dict()
    }
    model.load_state_dict({names[n]: t for n, t in tensors.items() if not n.startswith("rm_head")})
    linear: list[Any] = [torch.nn.Linear(*tensors[f"rm_head.{i}.weight"].T.shape) for i in (0, 3, 5)]
    head = torch.nn.Sequential(
        linear[0], torch.nn.ReLU(), torch.nn.Dropout(0.05), linear[1], torch.nn.ReLU(), linear[2]
    )
    head.load_state_dict({n.removeprefix("rm_head."): t for n, t in tensors.items() if n.startswith("rm_head")})
    shown = []
    for image in images:
        high, wide = image.shape[:2]
        rounded = [max(28, round(side / 28) * 28) for side in (high, wide)]
        by = math.sqrt(high * wide / 200704)
        if math.prod(rounded) > 200704:
            rounded = [math.floor(side / by / 28) * 28 for side in (high, wide)]
        elif math.prod(rounded) < 200704:
            rounded = [math.ceil(side / by / 28) * 28 for side in (high, wide)]
        shown.append(Image.fromarray(image).resize((rounded[1], rounded[0]), Image.Resampling.BICUBIC))
    texts = [
        processor.apply_chat_template(
            [
                {
                    "role": "user",
                    "content": [{"type": "image"}, {"type": "text", "text": WORDS.replace("{text_prompt}", p)}],
                }
            ],
            add_generation_prompt=True,
        )
        for p in prompts
    ]
    inputs = processor(text=texts, images=shown, padding=True, return_tensors="pt")
    ids = inputs["input_ids"]
    with torch.no_grad():
        embeds = model.get_input_embeddings()(ids)
        pictures = model.model.visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"]).pooler_output
        embeds = embeds.masked_scatter((ids == settings.image_token_id)[..., None].expand_as(embeds), pictures)
        positions = torch.arange(ids.shape[1]).expand(3, *ids.shape)
        states = model.model.language_model(
            inputs_embeds=embeds, attention_mask=inputs["attention_mask"], position_ids=positions
        ).last_hidden_state
        return head.eval()(states)[ids == token][:, 0].tolist()


def test_scores_are_the_published_code_s(folder, reward):
    prompts = ["a photo of two red circles", "a star", "a"]
    found = reward.score(IMAGES, prompts)
    assert found.dtype == np.float32
    assert found == pytest.approx(published(folder, IMAGES, prompts), abs=1e-4)
    assert np.ptp(found) > 0.01


def test_a_score_depends_on_its_image_and_prompt_alone(reward):
    together = reward.score(IMAGES, PROMPTS)
    alone = [reward.score([image], [prompt])[0] for image, prompt in zip(IMAGES, PROMPTS, strict=True)]
    assert together.tolist() == alone
    assert reward.score([], []).shape == (0,)
    assert reward.score(IMAGES[:1], ["another"])[0] != alone[0]


def test_words_of_our_own_are_said(config, capsys):
    assert np.isfinite(replace(config, template="rate").open().score(IMAGES[:1], PROMPTS[:1])).all()
    assert REWARD_TOKEN in Hpsv3Reward(replace(config, template="rate")).text_of("a star")


def test_bad_input_is_told_before_anything_is_computed(config, reward, folder, tmp_path):
    with pytest.raises(InputError, match="3 images with 1 prompts"):
        reward.score(IMAGES, PROMPTS[:1])
    with pytest.raises(InputError, match="reward token"):
        reward.score(IMAGES[:1], [f"a {REWARD_TOKEN}"])
    with pytest.raises(MissingWeightsError, match=r"no HPSv3\.safetensors"):
        replace(config, model=str(folder / "base")).open()
    (tmp_path / "words.txt").write_text("Rate {text_prompt}.")
    with pytest.raises(InputError, match="0 times"):
        replace(config, template=str(tmp_path / "words.txt")).open()
    whole = load_file(folder / "HPSv3.safetensors")
    for name, problem in (("model.norm.weight", "missing"), ("rm_head.3.bias", "a reward head of")):
        save_file({n: t for n, t in whole.items() if n != name}, tmp_path / "HPSv3.safetensors")
        with pytest.raises(InputError, match=problem):
            replace(config, model=str(tmp_path)).open()
    save_file(
        whole | {"model.layers.9.mlp.down_proj.weight": whole["model.norm.weight"].clone()},
        tmp_path / "HPSv3.safetensors",
    )
    with pytest.raises(InputError, match="unexpected"):
        replace(config, model=str(tmp_path)).open()
