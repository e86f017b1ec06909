"""ImageReward: the published code's arithmetic on tiny tensors of its names, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from inference.rewards.image_reward import ImageRewardConfig, configs_of, load_parts, split
from schemas.errors import InputError, MissingWeightsError
from tests.support.tiny_models.rewards import FULL, SMALL, image_reward_shapes, med_config, save_tiny_image_reward

RNG = np.random.default_rng(0)
IMAGES = [RNG.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((32, 32), (40, 90), (70, 33))]
PROMPTS = ["a photo of a red cat", "a dog " * 40, "bench"]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = save_tiny_image_reward(tmp_path_factory.mktemp("imagereward"))
    return ImageRewardConfig(str(folder), str(folder / "bert"), batch_size=2, device="cpu")


def published(config, image, prompt) -> float:
    """What image-reward 1.5 computes, written out over its tensors: vit.py, med.py, ImageReward.py. (Its own classes
    under transformers 4.45.2 gave the same on this folder, to six digits.)"""
    import torch
    from torch.nn import functional as F
    from transformers import AutoTokenizer

    w = torch.load(f"{config.model}/ImageReward.pt", weights_only=True)
    side, patch = SMALL["image_px"], SMALL["patch_px"]

    def norm(x, name, eps):
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)

    def linear(x, name):
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def attend(q, k, v, heads, mask=None):
        parts = [t.view(1, -1, heads, t.shape[-1] // heads).transpose(1, 2) for t in (q, k, v)]
        scores = parts[0] @ parts[1].transpose(-1, -2) / parts[0].shape[-1] ** 0.5
        scores = scores if mask is None else scores + mask
        return (scores.softmax(-1) @ parts[2]).transpose(1, 2).reshape(1, q.shape[1], -1)

    high, wide = image.shape[:2]
    size = (side, int(side * wide / high)) if high <= wide else (int(side * high / wide), side)
    small = np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC))
    top, left = round((size[0] - side) / 2), round((size[1] - side) / 2)
    pixels = torch.from_numpy(small[top : top + side, left : left + side] / 255.0).float()
    pixels = (pixels - torch.tensor([0.48145466, 0.4578275, 0.40821073])) / torch.tensor(
        [0.26862954, 0.26130258, 0.27577711]
    )
    see = "blip.visual_encoder"
    x = F.conv2d(
        pixels.permute(2, 0, 1)[None], w[f"{see}.patch_embed.proj.weight"], w[f"{see}.patch_embed.proj.bias"], patch
    )
    x = torch.cat([w[f"{see}.cls_token"], x.flatten(2).transpose(1, 2)], 1) + w[f"{see}.pos_embed"]
    for i in range(SMALL["layers"]):
        block = f"{see}.blocks.{i}"
        q, k, v = linear(norm(x, f"{block}.norm1", 1e-6), f"{block}.attn.qkv").chunk(3, -1)
        x = x + linear(attend(q, k, v, SMALL["vision"] // 64), f"{block}.attn.proj")
        x = x + linear(F.gelu(linear(norm(x, f"{block}.norm2", 1e-6), f"{block}.mlp.fc1")), f"{block}.mlp.fc2")
    seen = norm(x, f"{see}.norm", 1e-6)
    tokens = AutoTokenizer.from_pretrained(config.tokenizer)(
        prompt, padding="max_length", truncation=True, max_length=35, return_tensors="pt"
    )
    read = "blip.text_encoder"
    y = w[f"{read}.embeddings.word_embeddings.weight"][tokens["input_ids"]]
    y = norm(y + w[f"{read}.embeddings.position_embeddings.weight"][:35], f"{read}.embeddings.LayerNorm", 1e-12)
    hidden = (1.0 - tokens["attention_mask"].float())[:, None, None] * -10000.0
    for i in range(SMALL["layers"]):
        layer = f"{read}.encoder.layer.{i}"
        for name, other, mask in (("attention", None, hidden), ("crossattention", seen, None)):
            source = y if other is None else other
            q, k, v = (
                linear(s, f"{layer}.{name}.self.{p}") for s, p in ((y, "query"), (source, "key"), (source, "value"))
            )
            mixed = linear(attend(q, k, v, SMALL["text_heads"], mask), f"{layer}.{name}.output.dense")
            y = norm(mixed + y, f"{layer}.{name}.output.LayerNorm", 1e-12)
        inner = F.gelu(linear(y, f"{layer}.intermediate.dense"))
        y = norm(linear(inner, f"{layer}.output.dense") + y, f"{layer}.output.LayerNorm", 1e-12)
    z = y[:, 0]
    for number in (0, 2, 4, 6, 7):
        z = linear(z, f"mlp.layers.{number}")
    return (z.item() - 0.16717362830052426) / 1.0333394966054072


def test_scores_are_the_published_code_s(config):
    found = config.open().score(IMAGES, PROMPTS)
    assert found.dtype == np.float32
    assert found == pytest.approx([published(config, *row) for row in zip(IMAGES, PROMPTS, strict=True)], abs=1e-4)
    assert np.ptp(found) > 0.01


def test_a_score_does_not_depend_on_the_batch(config):
    reward = config.open()
    together = reward.score(IMAGES, PROMPTS)
    assert reward.score([IMAGES[2]], [PROMPTS[2]])[0] == together[2]
    assert reward.score([], []).shape == (0,)


def test_the_published_names_at_full_size_are_transformers_own():
    """Without numbers: every name has its place there, and every shape fits."""
    import torch
    from transformers import BlipTextModel, BlipVisionModel

    with torch.device("meta"):
        tensors = {name: torch.empty(sides) for name, sides in image_reward_shapes(FULL).items()}
        parts = split(tensors)
        vision, text = configs_of(parts[0], med_config(FULL))
        models = BlipVisionModel(vision), BlipTextModel(text, add_pooling_layer=False)
    assert vision.num_attention_heads == 16
    for model, part in zip(models, parts, strict=True):
        assert {n: t.shape for n, t in model.state_dict().items()} == {n: t.shape for n, t in part.items()}


def test_bad_input_is_told(config, tmp_path):
    import shutil

    import torch

    with pytest.raises(InputError, match="3 images with 1 prompts"):
        config.open().score(IMAGES, PROMPTS[:1])
    with pytest.raises(MissingWeightsError, match=r"no ImageReward\.pt"):
        replace(config, model=config.tokenizer).open()
    shutil.copytree(config.model, tmp_path / "copy")
    file = tmp_path / "copy" / "ImageReward.pt"
    whole = torch.load(file, weights_only=True)
    for name in ("blip.visual_encoder.norm.weight", "blip.text_encoder.encoder.layer.1.output.dense.weight"):
        with pytest.raises(InputError, match="missing"):
            load_parts({n: t for n, t in whole.items() if n != name}, file, "float32")
    with pytest.raises(InputError, match="not ImageReward's tensors"):
        load_parts({n: t for n, t in whole.items() if not n.startswith("mlp")}, file, "float32")
    (tmp_path / "copy" / "med_config.json").write_text("[]")
    with pytest.raises(InputError, match="not ImageReward's tensors"):
        load_parts(whole, file, "float32")
