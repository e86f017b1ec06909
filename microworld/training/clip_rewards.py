"""Train the three micro rewards: tiny `CLIPModel`s that differ in what they were taught.

- `clip`: contrastive on captions, with captions that are almost true among the wrong ones (as CLIP);
- `hps`: the well drawn image before the badly drawn one of the same caption (as HPSv2's preferences);
- `pick`: the right image before a wrong one of the same caption, the right caption before a wrong one (as PickScore).

All three also learn, from their image tokens, which shape and colour each part of the image shows: a thousand labels an
image where the preference alone gives one bit. That head is thrown away.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.sound_weights import sound_weights
from microworld.scenes.world import COLORS, SHAPES
from microworld.training.reward_data import (
    CHUNK_EXAMPLES,
    Drawn,
    Examples,
    RewardPool,
    Worse,
    drawn_both_ways,
    make_examples,
)
from microworld.training.training import Training
from microworld.training.training_loop import MicroTrainingConfig, autocast, export_folder, prepare_process
from microworld.training.vae_noise import VaeNoise
from microworld.training.vlm_images import folder_digest, open_generated_pool

if TYPE_CHECKING:
    import torch
    from transformers import CLIPModel

REWARDS: dict[str, Worse] = {"clip": "near_miss", "hps": "spoil", "pick": "wrong_image"}
HELD_OUT_SEED = 9_000_011


@dataclass(frozen=True)
class RewardRecipe:
    """Sizes and hyperparameters."""

    width: int = 128
    vision_layers: int = 4
    text_layers: int = 2
    heads: int = 4
    projection: int = 64
    batch_size: int = 48
    learning_rate: float = 1.2e-3
    weight_decay: float = 0.05
    ema_decay: float = 0.998
    tile_weight: float = 0.5  # of the loss on tiles
    swapped_weight: float = 0.3  # of the contrast with other captions of the batch, where preference is what is taught
    vae_share: float = 0.5
    reuse: float = 5.0
    first_chunks: int = 2
    chunk_examples: int = CHUNK_EXAMPLES
    num_evaluated: int = 300
    num_drawn: int = 8_000  # images of the generator, drawn before the training
    bf16: bool | None = None  # None: measure which is faster here


def build_clip(recipe: RewardRecipe) -> CLIPModel:
    """Vision: 8 x 8 patches of 4 px. Text: the world's words, causal as CLIP's."""
    from transformers import CLIPConfig, CLIPModel

    from microworld.training.flux_model import BOS, CLIP_LENGTH, EOS, PAD, SPECIAL_TOKENS, VOCABULARY_SIZE

    shared = {
        "hidden_size": recipe.width,
        "intermediate_size": 2 * recipe.width,
        "num_attention_heads": recipe.heads,
        "projection_dim": recipe.projection,
    }
    text = {
        **shared,
        "num_hidden_layers": recipe.text_layers,
        "vocab_size": VOCABULARY_SIZE,
        "max_position_embeddings": CLIP_LENGTH,
        "pad_token_id": SPECIAL_TOKENS.index(PAD),
        "bos_token_id": SPECIAL_TOKENS.index(BOS),
        "eos_token_id": SPECIAL_TOKENS.index(EOS),
    }
    vision = {**shared, "num_hidden_layers": recipe.vision_layers, "image_size": 32, "patch_size": 4}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=recipe.projection)
    config._attn_implementation = "eager"
    return CLIPModel(config)


def build_image_processor() -> Any:
    """32 px, [0, 255] to [-1, 1]."""
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(
        size={"height": 32, "width": 32}, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )


def to_pixel_values(images: np.ndarray, rng: np.random.Generator | None = None) -> torch.Tensor:
    """float32 (B, 3, 32, 32) in [-1, 1]; with `rng`, contrast, brightness and noise differ from image to image."""
    import torch

    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    if rng is None:
        return pixels
    count = len(images)
    contrast, brightness, noise = (
        torch.from_numpy(rng.uniform(low, high, (count, 1, 1, 1)).astype(np.float32))
        for low, high in ((0.9, 1.08), (-0.06, 0.06), (0.0, 0.04))
    )
    grain = torch.from_numpy(rng.standard_normal(pixels.shape, np.float32))
    return pixels * contrast + brightness + noise * grain


class RewardModel:
    """A CLIP with a head on its image tokens that exists during training alone."""

    def __init__(self, recipe: RewardRecipe, device: str) -> None:
        import torch

        self.recipe, self.device = recipe, device
        self.clip: Any = build_clip(recipe)
        head = torch.nn.Linear(recipe.width, len(SHAPES) + len(COLORS) + 2)
        self.modules = torch.nn.ModuleDict({"clip": self.clip, "tiles": head}).to(torch.device(device))

    def images(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Unit vectors (B, projection), and tile logits (B, 16, shapes + colours), four tokens a tile."""
        import torch

        output = self.clip.vision_model(pixel_values=pixels.to(self.device))
        vectors = self.clip.visual_projection(output.pooler_output).float()
        tokens = output.last_hidden_state[:, 1:]
        tiles = tokens.reshape(len(tokens), 4, 2, 4, 2, -1).mean((2, 4)).reshape(len(tokens), 16, -1)
        return torch.nn.functional.normalize(vectors, dim=-1), self.modules["tiles"](tiles).float()

    def texts(self, ids: np.ndarray, length: int) -> torch.Tensor:
        """Unit vectors (B, projection)."""
        import torch

        tokens = torch.from_numpy(ids[:, :length].astype(np.int64)).to(self.device)
        vectors = self.clip.text_projection(self.clip.text_model(input_ids=tokens).pooler_output).float()
        return torch.nn.functional.normalize(vectors, dim=-1)

    def scale(self) -> torch.Tensor:
        return self.clip.logit_scale.clamp(max=4.6).exp()


def reward_loss(
    model: RewardModel, batch: Examples, length: int, worse: Worse, rng: np.random.Generator
) -> tuple[torch.Tensor, float]:
    """The loss, and the share of the batch that is put in the right order."""
    import torch
    from torch.nn import functional as F

    recipe, count, scale = model.recipe, len(batch), model.scale()
    images = batch.good if worse == "near_miss" else np.concatenate([batch.good, batch.bad])
    vectors, tiles = model.images(to_pixel_values(images, rng))
    good = vectors[:count]
    ids = batch.ids if worse == "spoil" else np.concatenate([batch.ids, batch.other_ids])
    texts = model.texts(ids, length)
    own = texts[:count]
    near = None if worse == "spoil" else scale * (good * texts[count:]).sum(-1)
    contrast = _contrast(scale * good @ own.T, batch.scenes, near)
    right = scale * (good * own).sum(-1)
    if worse == "near_miss":
        assert near is not None
        loss, margin = contrast, right - near
    else:
        margin = right - scale * (vectors[count:] * own).sum(-1)
        loss = F.softplus(-margin).mean() + recipe.swapped_weight * contrast
    targets = [torch.from_numpy(labels.astype(np.int64)).to(model.device) for labels in (batch.shapes, batch.colors)]
    shapes, colors = tiles[:count].split([len(SHAPES) + 1, len(COLORS) + 1], -1)
    tile_loss = F.cross_entropy(shapes.flatten(0, 1), targets[0].flatten())
    tile_loss = tile_loss + F.cross_entropy(colors.flatten(0, 1), targets[1].flatten())
    return loss + recipe.tile_weight * tile_loss, (margin > 0).float().mean().item()


def _contrast(logits: torch.Tensor, scenes: np.ndarray, near: torch.Tensor | None) -> torch.Tensor:
    """CLIP's symmetric cross-entropy over (images, texts). Captions of scenes with the same shapes may be true of each
    other's images, so they are no negatives; `near` (B,) are an image's logits with its own almost true caption."""
    import torch
    from torch.nn import functional as F

    keys = torch.from_numpy(scenes).to(logits.device)
    own = torch.eye(len(keys), dtype=torch.bool, device=logits.device)
    logits = logits.masked_fill((keys[:, None] == keys[None]) & ~own, -1e4)
    target = torch.arange(len(keys), device=logits.device)
    by_image = logits if near is None else torch.cat([logits, near[:, None]], 1)
    return (F.cross_entropy(by_image, target) + F.cross_entropy(logits.T, target)) / 2


def gpu_recipe() -> RewardRecipe:
    """For one GPU and 3 minutes. The damage to latents stays on the CPUs, with the processes that make the data."""
    return RewardRecipe(batch_size=256, learning_rate=2e-3, reuse=8.0, num_drawn=24_000, bf16=True)


def train(config: MicroTrainingConfig, recipe: RewardRecipe | None = None) -> None:
    """All three, a third of `config.minutes` each; resumes, exports, prints how good they are."""
    recipe = recipe or (RewardRecipe() if config.device == "cpu" else gpu_recipe())
    vae = VaeNoise(config.out_dir / "flux" / "vae", recipe.vae_share)
    prepare_process(config)
    drawn = draw_pairs(config, recipe)
    for number, (name, worse) in enumerate(REWARDS.items()):
        share = replace(config, minutes=config.minutes / len(REWARDS), seed=config.seed + 100 * number)
        _train_one(share, recipe, name, worse, vae, drawn)
    if config.evaluate:
        print_report(config.out_dir / "rewards", recipe.num_evaluated, vae)


def draw_pairs(config: MicroTrainingConfig, recipe: RewardRecipe) -> list[Drawn]:
    """What the generator draws of training captions, right and wrong."""
    pool = open_generated_pool(config, recipe.num_drawn)
    if pool is None:
        return []
    drawn = drawn_both_ways(pool.items)
    print(f"rewards: {len(drawn)} captions drawn right and wrong, of {len(pool)} images", flush=True)
    return drawn


def _train_one(
    config: MicroTrainingConfig,
    recipe: RewardRecipe,
    name: str,
    worse: Worse,
    vae: VaeNoise,
    drawn: Sequence[Drawn],
) -> None:
    import torch
    from transformers import CLIPModel

    torch.manual_seed(config.seed)
    if config.from_exported:
        recipe = replace(recipe, learning_rate=recipe.learning_rate / 2)
    model = RewardModel(recipe, config.device)
    if config.from_exported:
        trained = CLIPModel.from_pretrained(sound_weights(config.out_dir / "rewards" / name), dtype=torch.float32)
        model.clip.load_state_dict(trained.state_dict())
    optimizer = torch.optim.AdamW(
        model.modules.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay
    )
    training = Training(
        config,
        f"reward_{name}",
        model.modules,
        [(optimizer, recipe.learning_rate)],
        ema_decay=recipe.ema_decay,
        warmup=0.04,
    )
    clock, rng = training.clock, np.random.default_rng(training.seed(71))
    folder = config.work_dir / f"reward_{name}_examples-{folder_digest(config.out_dir / 'flux')}"
    pool = RewardPool(folder, config.seed, worse, vae, drawn, recipe.chunk_examples, config.data_workers)

    def forward(use_bf16: bool) -> tuple[torch.Tensor, float]:
        batch, length = pool.draw(rng, recipe.batch_size)
        with autocast(config.device, use_bf16):
            return reward_loss(model, batch, length, worse, rng)

    model.modules.train()
    while clock.running() and len(pool) < recipe.first_chunks * recipe.chunk_examples:
        pool.grow()
    use_bf16 = recipe.bf16
    if use_bf16 is None:
        use_bf16 = training.pick_bf16(lambda use_bf16: forward(use_bf16)[0])
    clock.pause()
    while clock.running():
        if clock.num_samples > recipe.reuse * len(pool):
            pool.grow()  # counts as training time
        loss, ordered = forward(use_bf16)
        training.step(loss, recipe.batch_size, {"loss": loss.item(), "ordered": ordered, "pool": len(pool)})
    training.checkpoint()
    with training.ema.applied():
        export_folder(lambda folder: save(model.clip, folder), config.out_dir / "rewards" / name)


def save(clip: Any, folder: Path) -> None:
    """A transformers folder in bfloat16 with tokenizer and image processor."""
    import torch

    from microworld.training.flux_model import build_tokenizer

    copy.deepcopy(clip).to(torch.bfloat16).save_pretrained(folder)
    build_tokenizer(clip=True).save_pretrained(folder)
    build_image_processor().save_pretrained(folder)


def preferences(folder: Path, num_examples: int, vae: VaeNoise) -> dict[str, dict[str, int]]:
    """On held-out examples: how often each scorer, and the ensemble, prefers the good image to the bad one of the same
    caption, where the bad one is spoiled and where it shows something else."""
    from inference.rewards.clip_reward import ClipReward, ClipRewardConfig
    from inference.rewards.ensemble import combine_rewards

    scorers = {name: ClipReward(ClipRewardConfig(model=str(folder / name), batch_size=32)) for name in REWARDS}
    kinds: tuple[Worse, ...] = ("spoil", "wrong_image")
    counts: dict[str, dict[str, int]] = {}
    for number, worse in enumerate(kinds):
        examples, texts = make_examples(np.random.default_rng([HELD_OUT_SEED, number]), num_examples, worse, vae)
        scores = {
            name: np.stack([scorer.score(list(images), texts) for images in (examples.good, examples.bad)], 1)
            for name, scorer in scorers.items()
        }
        # Among two candidates every scorer has one vote; the whole set's spread gives the votes their weight.
        spread = {name: values / (values[:, 0] - values[:, 1]).std() for name, values in scores.items()}
        combined = np.mean(list(spread.values()), 0)
        voted = [combine_rewards({name: values[i] for name, values in scores.items()}) for i in range(len(texts))]
        counts[worse] = {name: int((v[:, 0] > v[:, 1]).sum()) for name, v in scores.items()}
        counts[worse] |= {
            "ensemble_votes": sum(int(v[0] > v[1]) for v in voted),
            "ensemble_margins": int((combined[:, 0] > combined[:, 1]).sum()),
            "of": len(texts),
        }
    return counts


def print_report(folder: Path, num_examples: int, vae: VaeNoise) -> None:
    for worse, row in preferences(folder, num_examples, vae).items():
        print(f"rewards: good before bad ({worse}): {row}", flush=True)
