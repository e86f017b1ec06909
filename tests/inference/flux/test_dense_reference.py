"""FLUX with a condition against a dense implementation of its own: each token has its weights, time and LoRA, and a
table says who sees whom. Nothing of it comes from the code under test; it multiplies in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch.nn import functional

from inference.flux.condition_config import ConditionConfig
from inference.flux.conditioning import ConditionedFlux

HEADS, HEAD, AXES = 3, 16, (4, 6, 6)
NUM_DOUBLE, NUM_SINGLE = 2, 3
TEXT, TARGET, CONDITION = 7, 16, 9  # tokens
TOLERANCE = 1e-5  # of the largest velocity

JOINT = ConditionConfig(rank=4, alpha=6.0)
CACHED = replace(JOINT, attention="cached")
ALONE = replace(CACHED, text_copy=False)
CONFIGS = {
    "joint": JOINT,
    "joint, all": replace(JOINT, lora_on="all"),
    "joint, all and text": replace(JOINT, lora_on="all", adapt_text=True),
    "joint, text": replace(JOINT, adapt_text=True),
    "cached": CACHED,
    "cached, text copy adapted": replace(CACHED, adapt_text=True),
    "cached, all": replace(CACHED, lora_on="all"),
    "cached, all and text": replace(CACHED, lora_on="all", adapt_text=True),
    "cached, alone": ALONE,
    "cached, alone, all and text": replace(ALONE, lora_on="all", adapt_text=True),
}


@dataclass(frozen=True)
class Scene:
    """What is known of each of n tokens."""

    is_text: torch.Tensor  # bool (n,): it passes through the text's weights in double blocks
    is_still: torch.Tensor  # bool (n,): it is at timestep 0 with guidance 1
    is_adapted: torch.Tensor  # bool (n,)
    ids: torch.Tensor  # (n, 3)
    sees: torch.Tensor  # bool (n, n), row sees column


def scene_of(config: ConditionConfig) -> Scene:
    """[text; target; condition], and the text's copy where there is one."""
    sizes = [TEXT, TARGET, CONDITION]
    everywhere = config.lora_on == "all"
    adapted = [everywhere and config.adapt_text, everywhere, True]
    if config.attention == "cached" and config.text_copy:
        sizes, adapted = [*sizes, TEXT], [*adapted, config.adapt_text]
    role = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    is_still = role >= 2
    sees = torch.ones(len(role), len(role), dtype=torch.bool)
    if config.attention == "cached":
        sees[is_still] = is_still  # condition and copy see each other, and neither text nor target
    target = [(0.0, float(i // 4), float(i % 4)) for i in range(TARGET)]
    left = [(0.0, float(i // 3), float(i % 3 - 3)) for i in range(CONDITION)]
    ids = torch.zeros(len(role), 3)
    ids[role == 1], ids[role == 2] = torch.tensor(target), torch.tensor(left)
    return Scene((role == 0) | (role == 3), is_still, torch.tensor(adapted)[role], ids, sees)


class DenseFlux:
    """FLUX.1's forward pass over the tokens of a scene, by the names of diffusers' weights."""

    def __init__(self, weights: dict[str, torch.Tensor], lora: dict[str, torch.Tensor], scale: float, scene: Scene):
        self.weights = {name: value.double() for name, value in weights.items()}
        self.deltas = {
            name.removesuffix(".lora_A.weight"): scale
            * lora[name.replace("lora_A", "lora_B")].double()
            @ value.double()
            for name, value in lora.items()
            if "lora_A" in name
        }
        self.scene = scene

    def __call__(
        self,
        noisy: torch.Tensor,
        timestep: torch.Tensor,
        guidance: torch.Tensor,
        prompt_embeds: torch.Tensor,
        pooled: torch.Tensor,
        condition: torch.Tensor,
    ) -> torch.Tensor:
        """Velocity float64 (B, TARGET, channels)."""
        text = self.linear("context_embedder", prompt_embeds.double())
        image = torch.cat([noisy, condition], dim=1).double()
        is_image = torch.arange(TEXT, TEXT + TARGET + CONDITION)
        embedded = self.linear("x_embedder", image, self.scene.is_adapted[is_image])
        has_copy = len(self.scene.ids) > TEXT + TARGET + CONDITION
        x = torch.cat([text, embedded, text] if has_copy else [text, embedded], dim=1)
        moving = self.time(timestep, guidance, pooled)[:, None]
        still = self.time(torch.zeros_like(timestep), torch.ones_like(guidance), pooled)[:, None]
        time = functional.silu(torch.where(self.scene.is_still[:, None], still, moving))
        for number in range(NUM_DOUBLE):
            x = self.double_block(f"transformer_blocks.{number}", x, time)
        for number in range(NUM_SINGLE):
            x = self.single_block(f"single_transformer_blocks.{number}", x, time)
        scale, shift = self.linear("norm_out.linear", functional.silu(moving)).chunk(2, dim=-1)
        return self.linear("proj_out", modulate(x[:, TEXT : TEXT + TARGET], shift, scale))

    def linear(self, name: str, x: torch.Tensor, is_adapted: torch.Tensor | None = None) -> torch.Tensor:
        """is_adapted: for which tokens the weight is W + scale * BA; None for none of them."""
        weight = self.weights[f"{name}.weight"]
        y = x @ weight.T
        if is_adapted is not None and name in self.deltas:
            y = torch.where(is_adapted[:, None], x @ (weight + self.deltas[name]).T, y)
        return y + self.weights[f"{name}.bias"]

    def by_kind(self, block: str, for_text: str, for_image: str, x: torch.Tensor) -> torch.Tensor:
        """The text's layer on the text's tokens, the image's on the others."""
        text, image = (self.linear(f"{block}.{name}", x, self.scene.is_adapted) for name in (for_text, for_image))
        return torch.where(self.scene.is_text[:, None], text, image)

    def time(self, timestep: torch.Tensor, guidance: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        """(B, d), before its silu."""
        made = self.perceptron("time_text_embed.timestep_embedder", sinusoid(timestep))
        made = made + self.perceptron("time_text_embed.guidance_embedder", sinusoid(guidance))
        return made + self.perceptron("time_text_embed.text_embedder", pooled.double())

    def perceptron(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return self.linear(f"{name}.linear_2", functional.silu(self.linear(f"{name}.linear_1", x)))

    def double_block(self, block: str, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        modulation = self.by_kind(block, "norm1_context.linear", "norm1.linear", time)
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = modulation.chunk(6, dim=-1)
        y = modulate(x, shift, scale)
        q = self.by_kind(block, "attn.add_q_proj", "attn.to_q", y)
        k = self.by_kind(block, "attn.add_k_proj", "attn.to_k", y)
        v = self.by_kind(block, "attn.add_v_proj", "attn.to_v", y)
        q = self.normed(block, "norm_added_q", "norm_q", q)
        k = self.normed(block, "norm_added_k", "norm_k", k)
        y = self.attention(q, k, v)
        x = x + gate * self.by_kind(block, "attn.to_add_out", "attn.to_out.0", y)
        y = modulate(x, shift_mlp, scale_mlp)
        y = gelu(self.by_kind(block, "ff_context.net.0.proj", "ff.net.0.proj", y))
        return x + gate_mlp * self.by_kind(block, "ff_context.net.2", "ff.net.2", y)

    def single_block(self, block: str, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        adapted = self.scene.is_adapted
        shift, scale, gate = self.linear(f"{block}.norm.linear", time, adapted).chunk(3, dim=-1)
        y = modulate(x, shift, scale)
        q, k, v = (self.linear(f"{block}.attn.to_{part}", y, adapted) for part in "qkv")
        q, k = self.normed(block, "norm_q", "norm_q", q), self.normed(block, "norm_k", "norm_k", k)
        hidden = gelu(self.linear(f"{block}.proj_mlp", y, adapted))
        y = torch.cat([self.attention(q, k, v), hidden], dim=-1)
        return x + gate * self.linear(f"{block}.proj_out", y, adapted)

    def normed(self, block: str, for_text: str, for_image: str, x: torch.Tensor) -> torch.Tensor:
        """Root mean square 1 in each head, then the weight of its kind: (B, n, HEADS, HEAD)."""
        x = x.unflatten(-1, (HEADS, HEAD))
        x = x / (x.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()
        text, image = (self.weights[f"{block}.attn.{name}.weight"] for name in (for_text, for_image))
        return x * torch.where(self.scene.is_text[:, None, None], text, image)

    def attention(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """q and k (B, n, HEADS, HEAD), v (B, n, d) -> (B, n, d)."""
        turns = self.turns()[:, None]
        q, k = (torch.view_as_real(as_complex(x) * turns).flatten(-2).transpose(1, 2) for x in (q, k))
        scores = q @ k.transpose(-1, -2) / math.sqrt(HEAD)
        weights = scores.masked_fill(~self.scene.sees, -math.inf).softmax(dim=-1)
        return (weights @ v.unflatten(-1, (HEADS, HEAD)).transpose(1, 2)).transpose(1, 2).flatten(-2)

    def turns(self) -> torch.Tensor:
        """Rotations complex (n, HEAD / 2): neighbouring numbers of a head turn together, slower from pair to pair."""
        angles = []
        for axis, size in enumerate(AXES):
            speeds = 10000.0 ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
            angles.append(self.scene.ids[:, axis, None].double() * speeds)
        angle = torch.cat(angles, dim=-1)
        return torch.polar(torch.ones_like(angle), angle)


def as_complex(x: torch.Tensor) -> torch.Tensor:
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())


def modulate(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt() * (1 + scale) + shift


def gelu(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def sinusoid(value: torch.Tensor) -> torch.Tensor:
    """256 numbers of each. The angle is rounded to float32, as in diffusers: of 1000 radians that is a lot."""
    speeds = torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float32) / 128)
    angle = (value[:, None] * 1000 * speeds).double()
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


@pytest.fixture(scope="module")
def base():
    """Every weight random, of a size with which all matters: attention is far from even, gates are open."""
    from diffusers import FluxTransformer2DModel

    made = FluxTransformer2DModel(
        in_channels=16,
        num_layers=NUM_DOUBLE,
        num_single_layers=NUM_SINGLE,
        attention_head_dim=HEAD,
        num_attention_heads=HEADS,
        joint_attention_dim=24,
        pooled_projection_dim=20,
        guidance_embeds=True,
        axes_dims_rope=AXES,
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.normal_(generator=generator)
            if "norm_" in name and "norm_out" not in name:
                parameter.mul_(0.3).add_(1)
            else:
                parameter.mul_(0.1 if name.endswith("bias") else 0.7 / math.sqrt(parameter.shape[-1]))
    return made.eval()


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(1)

    def noise(*shape):
        return torch.randn(*shape, generator=generator)

    return {
        "noisy": noise(2, TARGET, 16),
        "timestep": torch.tensor([0.25, 0.875]),
        "guidance": torch.tensor([3.5, 1.0]),
        "prompt_embeds": noise(2, TEXT, 24),
        "pooled": noise(2, 20),
        "condition": noise(2, CONDITION, 16),
    }


def model_of(base, config):
    """With a LoRA that adds about half of what the weights do."""
    model = ConditionedFlux(base, config)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.lora.parameters():
            parameter.normal_(generator=generator).mul_(0.5 / math.sqrt(parameter.shape[-1]))
    return model


def difference(base, inputs, config, scene, scale=None):
    """The largest between model and reference, as a share of the largest velocity."""
    model = model_of(base, config)
    ids = scene_of(config).ids
    with torch.no_grad():
        ours = model(
            **inputs,
            image_ids=ids[TEXT : TEXT + TARGET],
            condition_ids=ids[TEXT + TARGET : TEXT + TARGET + CONDITION],
        )
        lora = model.lora.to_file_tensors()
        scale = config.alpha / config.rank if scale is None else scale
        reference = DenseFlux(base.state_dict(), lora, scale, scene)(**inputs)
    assert ours.dtype == torch.float32
    return float((ours.double() - reference).abs().max() / reference.abs().max())


@pytest.mark.parametrize("name", CONFIGS)
def test_the_velocity_is_that_of_the_dense_reference(base, inputs, name):
    assert difference(base, inputs, CONFIGS[name], scene_of(CONFIGS[name])) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("joint", "joint, all"),
        ("joint, all", "joint"),
        ("joint, all and text", "joint, all"),
        ("joint", "cached, alone"),
        ("cached, alone", "joint"),
        ("cached", "cached, text copy adapted"),
        ("cached, text copy adapted", "cached"),
        ("cached", "cached, all"),
        ("cached", "cached, alone"),
    ],
)
def test_another_mask_or_scope_is_far_off(base, inputs, name, other):
    assert difference(base, inputs, CONFIGS[name], scene_of(CONFIGS[other])) > 100 * TOLERANCE


def test_each_thing_that_is_known_of_a_token_matters(base, inputs):
    for name in ("joint", "cached"):
        scene = scene_of(CONFIGS[name])
        last = TEXT + TARGET + CONDITION - 1  # the condition's last token
        blind, moving, moved = scene.sees.clone(), scene.is_still.clone(), scene.ids.clone()
        blind[TEXT, last], moving[last] = False, False
        moved[last, 2] += 1
        for wrong in (replace(scene, sees=blind), replace(scene, is_still=moving), replace(scene, ids=moved)):
            assert difference(base, inputs, CONFIGS[name], wrong) > 100 * TOLERANCE
        assert difference(base, inputs, CONFIGS[name], scene, scale=1.4) > 100 * TOLERANCE
