"""The verifier's training: a VLM with a reward token, a bias-free head and a Bradley-Terry loss.

ReflectionFlow §3.2, verifier post-processing: LoRA on the language model, the whole vision tower. The paper trains on
pairs whose label the annotator's verdict confirms (`--pairs confirmed`). A run ships others too, which nobody compared:
editing pairs, and those that `cot_share` left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from inference.model_store import require_models
from inference.sound_weights import sound_model
from inference.vlm.adapters import load_vlm
from inference.vlm.prompts import load_prompt
from inference.vlm.trained_verifier import (
    HEAD,
    VISION_PREFIX,
    VerifierDescription,
    add_reward_token,
    read_weights,
    reward_inputs,
    rewards_of,
    vision_tower,
    write_description,
)
from schemas.configuration import model_field, resumable_field
from schemas.errors import InputError
from schemas.telling import telling
from schemas.terminal import say
from trainers.bradley_terry import Variant, bradley_terry_loss
from trainers.checkpoint import exported
from trainers.comparison_shards import ComparisonMembers
from trainers.loop import ALONE, LoopConfig, OptimizerConfig, Rank, TrainingLoop
from trainers.pair_labels import CONFIRMED, DENIED, NO_VERDICT, PairLabels, read_labels
from trainers.shard_dataset import EVEN_MIX, MixSchedule, PairDataset, TrainingOrder, Triplet, open_data
from trainers.shard_index import ShardIndex
from trainers.vlm_lora import add_lora, recompute_layers, restore_adapter, save_adapter

if TYPE_CHECKING:
    import torch

EVALUATION_SEED = 7_000_009
MARGIN_VARIANTS = ("margin", "scaled")
Pairs = Literal["undisputed", "confirmed", "all"]


@dataclass(frozen=True)
class RewardModelConfig:
    """What is trained of which model."""

    base_model: str = "Qwen/Qwen2.5-VL-3B-Instruct"
    """Model zoo name, local folder or hub id."""
    template: str = "verify"
    """Prompt template with {prompt}: the question whose end the reward token is."""
    rank: int = 64
    """Of the LoRA on the language model; its alpha is as large."""
    train_vision: bool = True
    """Train all weights of the vision tower, too."""
    device: str = resumable_field("cpu")
    """Where it computes: cpu, cuda, cuda:1."""


class RewardModelInTraining:
    """Base model with LoRA, reward token and head; its trained parts as one module."""

    def __init__(self, config: RewardModelConfig) -> None:
        """MissingWeightsError where the base model is not on this machine; InputError for a VLM without such parts."""
        import torch

        from inference.model_store import resolve_model

        base, self.processor = load_vlm(resolve_model(config.base_model), "float32")
        self.description = VerifierDescription(config.base_model, load_prompt(config.template))
        add_reward_token(base, self.processor, self.description.reward_token)
        self.model: Any = add_lora(base, config.rank)
        self.vision = vision_tower(base).requires_grad_(config.train_vision)
        self.head = torch.nn.Linear(base.config.get_text_config().hidden_size, 1, bias=False)
        self.config = config
        self.module = torch.nn.ModuleDict({"model": self.model, "head": self.head}).to(config.device)

    def rewards(self, images: Sequence[Any], prompts: Sequence[str]) -> torch.Tensor:
        """float32 (n,), not normalised."""
        return self.rewards_of(self.inputs(images, prompts))

    def inputs(self, images: Sequence[Any], prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        """What `rewards_of` takes, on the CPU."""
        return dict(reward_inputs(self.processor, images, prompts, self.description))

    def rewards_of(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """float32 (n,), not normalised."""
        inputs = {name: value.to(self.config.device) for name, value in inputs.items()}
        return rewards_of(self.model, self.head.weight, inputs).float()

    def restore(self, folder: Path) -> None:
        """What `save` wrote of a model of the same shape. MissingWeightsError where there is none."""
        import torch

        restore_adapter(self.model, folder)
        head, vision = read_weights(folder)
        if vision:
            self.vision.load_state_dict(vision)
        with torch.no_grad():
            self.head.weight.copy_(head)

    def save(self, folder: Path, mean: float, std: float) -> None:
        """As `inference.vlm.trained_verifier.TrainedVerifier` loads it: adapter and vision tower in bfloat16."""
        import torch
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_adapter(self.model, folder, self.description.base_model)
        tensors = {HEAD: self.head.weight.detach().float().contiguous()}
        if self.config.train_vision:
            tensors |= {
                f"{VISION_PREFIX}{name}": value.detach().to(torch.bfloat16).contiguous()
                for name, value in self.vision.state_dict().items()
            }
        save_file(tensors, folder / "verifier.safetensors")
        write_description(folder, replace(self.description, mean=mean, std=std))


@dataclass(frozen=True)
class VerifierTrainingConfig:
    """One training. The defaults are the paper's (interop: 10,080 steps, learning rate 2e-6)."""

    data: str = ""
    """Run folder, folder or glob of shards, local or s3://, or a dataset in the hub cache (`diffusion-cot/GenRef-wds`,
    `diffusion-cot/GenRef-CoT`)."""
    comparisons: ComparisonMembers = field(default_factory=ComparisonMembers)
    out: Path = resumable_field(Path("runs/verifier"))
    """Checkpoints and curves; the verifier itself in `out/verifier`."""
    model: RewardModelConfig = field(default_factory=RewardModelConfig)
    start_from: str = model_field("")
    """A verifier of the base model that is trained further: a folder, a hub id, or a shipped one's name; its rank must
    be `model.rank`."""
    variant: Variant = "bt"
    """Of the loss. margin, scaled: pairs have margins where the run's verifier scored them (`--filter.verifier`)."""
    pairs: Pairs = "undisputed"
    """By the verdict of the annotator who compared both images (`cot.json`). confirmed: pairs whose verdict is for the
    good image (the paper's); undisputed: those, and pairs that nobody compared; all: whatever the verdict."""
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=10_080, batch_size=32, micro_batch=4))
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig("adamw", 2e-6, warmup_steps=500, max_gradient_norm=1.0)
    )
    mix: MixSchedule = field(default_factory=lambda: EVEN_MIX)
    held_out_share: float = 0.05
    """Share of the triplets that are kept for evaluation."""
    num_evaluated: int = resumable_field(256)
    """Held-out triplets that each evaluation scores; at the end, as many training ones, for mean and deviation."""
    bf16: bool = resumable_field(True)
    """Forward passes in bfloat16 (autocast); weights stay in float32."""
    recompute: bool = resumable_field(False)
    """Gradient checkpointing: layers are computed again in the backward pass; half more time, far less memory."""


class VerifierTrainable:
    """See `trainers.loop.Trainable`."""

    name = "verifier"

    def __init__(self, config: VerifierTrainingConfig, held_out: ShardIndex, training: ShardIndex) -> None:
        """Loads the base model."""
        import torch

        torch.manual_seed(config.loop.seed)
        self.config, self._held_out, self._training = config, held_out, training
        self.reward_model = RewardModelInTraining(config.model)
        if config.start_from:
            self.reward_model.restore(sound_model(config.start_from))
        if config.recompute:
            recompute_layers(self.reward_model.model)

    @property
    def module(self) -> torch.nn.Module:
        return self.reward_model.module

    def losses(self, samples: Sequence[Triplet]) -> Iterator[tuple[list[str], torch.Tensor]]:
        """One Bradley-Terry loss a triplet."""
        import torch

        good, bad = self._rewards(samples)
        variant = self.config.variant
        margins = [None if t.margin is None else good.new_tensor([t.margin]) for t in samples]
        each = [
            bradley_terry_loss(g[None], b[None], variant, margin)
            for g, b, margin in zip(good, bad, margins, strict=True)
        ]
        yield [t.subset for t in samples], torch.stack(each)

    def _rewards(self, triplets: Sequence[Triplet]) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        prompts = [t.prompt for t in triplets]
        with torch.autocast(self.config.model.device, torch.bfloat16, enabled=self.config.bf16):
            both = self.reward_model.rewards([t.good for t in triplets] + [t.bad for t in triplets], prompts * 2)
        return both[: len(triplets)], both[len(triplets) :]

    def _scored(self, index: ShardIndex, count: int) -> tuple[list[Triplet], torch.Tensor, torch.Tensor]:
        import torch

        if not len(index):
            return [], torch.zeros(0), torch.zeros(0)
        dataset = PairDataset(TrainingOrder(index, EVEN_MIX, 1, EVALUATION_SEED))
        triplets = [dataset[n] for n in range(min(count, 4 * len(index)))]
        parts = []
        with torch.no_grad():
            for start in range(0, len(triplets), self.config.loop.micro_batch):
                parts.append(self._rewards(triplets[start : start + self.config.loop.micro_batch]))
        return triplets, torch.cat([g for g, _ in parts]), torch.cat([b for _, b in parts])

    def evaluate(self) -> dict[str, float]:
        """Share of held-out pairs whose good image scores higher, overall and by subset."""
        triplets, good, bad = self._scored(self._held_out, self.config.num_evaluated)
        if not triplets:
            return {}
        right = (good > bad).float().tolist()
        by_subset: dict[str, list[float]] = {}
        for triplet, hit in zip(triplets, right, strict=True):
            by_subset.setdefault(triplet.subset, []).append(hit)
        share = sum(right) / len(right)
        figures = {f"preferred/{name}": sum(hits) / len(hits) for name, hits in by_subset.items()}
        return figures | {"preferred": share, "score": share}

    def draw_samples(self, step: int) -> None:
        """A verifier draws nothing."""

    def export(self) -> None:
        """`out/verifier`, with the mean and deviation of its scores of training images."""
        import torch

        _, good, bad = self._scored(self._training, self.config.num_evaluated)
        scores = torch.cat([good, bad])
        with exported(self.config.out / "verifier") as folder:
            self.reward_model.save(folder, float(scores.mean()), float(scores.std().clamp(min=1e-6)))


def left_out_of(labels: PairLabels, pairs: Pairs, variant: Variant) -> dict[str, np.ndarray]:
    """Which samples are not trained on, bool (n,), by why; each has one reason at most."""
    nobody = np.zeros(len(labels.verdict), bool)
    reasons = {
        "whose verdict is for the bad image": labels.verdict == DENIED if pairs != "all" else nobody,
        "without a verdict": labels.verdict == NO_VERDICT if pairs == "confirmed" else nobody,
        "without a margin above 0": ~(labels.margin > 0) if variant in MARGIN_VARIANTS else nobody,
    }
    gone = nobody
    for why, mask in reasons.items():
        reasons[why], gone = mask & ~gone, gone | mask
    return {why: mask for why, mask in reasons.items() if mask.any()}


def choose_pairs(index: ShardIndex, config: VerifierTrainingConfig) -> tuple[ShardIndex, str]:
    """The pairs to train on, and for people: how many they are, how many others are not, and why."""
    labels = read_labels(index, config.out / "cache")
    left_out = left_out_of(labels, config.pairs, config.variant)
    kept = ~np.any([np.zeros(len(index), bool), *left_out.values()], axis=0)
    confirmed, none = ((labels.verdict[kept] == verdict).sum() for verdict in (CONFIRMED, NO_VERDICT))
    why = ", ".join(f"{mask.sum()} {reason}" for reason, mask in left_out.items()) or "none"
    return index.where(kept), (
        f"{kept.sum()} of {len(index)} pairs ({confirmed} confirmed by the annotator's verdict, {none} without a "
        f"verdict); left out: {why}"
    )


def open_training(config: VerifierTrainingConfig, rank: Rank = ALONE) -> TrainingLoop:
    """Opens the shards, loads the base model and the newest checkpoint. InputError for what cannot be."""
    config.loop.check(rank.world_size)
    order, held_out = open_data(
        config.data,
        config.out,
        config.held_out_share,
        config.mix,
        config.loop.batch_size,
        config.loop.seed,
        config.comparisons,
    )
    training, account = choose_pairs(order.index, config)
    if not len(training):
        raise InputError(
            f"the verifier has nothing to learn from: {account}",
            file=config.data,
            field="--pairs, --variant",
            expected="verdicts (--reflect.cot-share of the run) for --pairs confirmed, scores of the run's verifier "
            "for the variants margin and scaled; published shards have neither: --pairs all --variant bt",
        )
    if rank.is_first:
        say(f"verifier: {account}", flush=True)
    held_out, _ = choose_pairs(held_out, config)
    order = TrainingOrder(training, config.mix, config.loop.batch_size, config.loop.seed)
    require_models([config.model.base_model, *filter(None, [config.start_from])])
    with telling(f"loading {config.model.base_model}"):
        trainable = VerifierTrainable(config, held_out, training)
    return TrainingLoop(trainable, order, config.loop, config.optimizer, config.out, rank, config.model.device)
