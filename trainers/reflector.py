"""The reflector's training: supervised fine-tuning of a Qwen2.5-VL on the reflections of a dataset.

ReflectionFlow §3.3: the flawed image and the prompt in, the reflection out. Where a triplet came with its chain of
thought, a share of the samples is the comparison that it was written in: both images in, the whole answer out. Another
share is the good image alone, with the answer that nothing is wrong: a reflector that has never seen a right image
finds fault with every one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from inference.flux.corrector import MIN_REFLECTION_CHARS
from inference.interfaces import ChatRequest
from inference.model_store import require_models
from inference.reflection_text import nothing_to_correct
from inference.search import NOTHING_WRONG
from inference.vlm.grid import image_grid
from inference.vlm.prompts import fill_prompt, load_prompt
from inference.vlm.reflector_words import write_words
from schemas.configuration import model_field, resumable_field, stable_seed
from schemas.telling import telling
from trainers.comparison_shards import ComparisonMembers
from trainers.lessons import Lesson, LessonTrainable
from trainers.loop import ALONE, LoopConfig, OptimizerConfig, Rank, TrainingLoop
from trainers.shard_dataset import EVEN_MIX, MixSchedule, PairDataset, TrainingOrder, Triplet, open_data
from trainers.shard_index import ShardIndex

EVALUATION_SEED = 7_000_021
RIGHT_SUBSETS = frozenset({"rule", "editing"})
"""Whose good images passed a check, or are described by their prompt; those of others only have the better reward."""


@dataclass(frozen=True)
class ReflectorConfig:
    """Which model, and in which words it is asked."""

    base_model: str = "Qwen/Qwen2.5-VL-7B-Instruct"
    """Model zoo name, local folder or hub id."""
    template: str = "reflect"
    """Template with {prompt}, for the flawed image alone."""
    compare_template: str = "compare"
    """Template with {prompt}, for both images."""
    cot_share: float = 0.25
    """Share of the samples with a chain of thought that are comparisons."""
    right_share: float = 0.1
    """Share of the samples of the subsets rule and editing, whose good images are right and not only better, that show
    the good image alone; the answer is "The image is right.\""""
    image_px: int = 768
    """Images are shown with at most this longer side in a comparison; 0: as they are."""
    full: bool = False
    """Train all weights, as the paper does, and not a LoRA; several workers then share the model (FSDP2)."""
    rank: int = 64
    """Of the LoRA on the language model; its alpha is as large."""
    device: str = resumable_field("cpu")
    """Where it computes: cpu, cuda, cuda:1."""


@dataclass(frozen=True)
class ReflectorTrainingConfig:
    """One training: by default a LoRA on the language model, with hyperparameters common for one. The paper fine-tunes
    all of the 7B model (learning rate 1e-6, 45,000 steps; ReflectionFlow §4.1): `model.full` does, and its weights,
    gradients and moments in float32, 124 GiB, lie in parts on the workers' GPUs."""

    data: str = ""
    """Run folder, folder or glob of shards, local or s3://, or a dataset in the hub cache (`diffusion-cot/GenRef-wds`,
    `diffusion-cot/GenRef-CoT`)."""
    comparisons: ComparisonMembers = field(default_factory=ComparisonMembers)
    out: Path = resumable_field(Path("runs/reflector"))
    """Checkpoints, curves and reflections to read; the reflector itself in `out/reflector`."""
    model: ReflectorConfig = field(default_factory=ReflectorConfig)
    start_from: str = model_field("")
    """An adapter of the base model that is trained further: a folder, a hub id, or a shipped one's name; its rank must
    be `model.rank`."""
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=5000, batch_size=32, micro_batch=2))
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(
            "adamw", 1e-4, warmup_steps=150, decay_steps=5000, max_gradient_norm=1.0
        )
    )
    mix: MixSchedule = field(default_factory=lambda: EVEN_MIX)
    held_out_share: float = 0.05
    """Share of the triplets that are kept for evaluation."""
    num_evaluated: int = resumable_field(128)
    """Held-out triplets that each evaluation looks at."""
    num_written: int = resumable_field(32)
    """Held-out reflections that are written out at each evaluation, to be read (`out/samples`)."""
    bf16: bool = resumable_field(True)
    """Forward passes in bfloat16 (autocast); weights stay in float32."""
    recompute: bool = resumable_field(False)
    """Gradient checkpointing: layers are computed again in the backward pass; half more time, far less memory."""


def teaches(triplet: Triplet) -> bool:
    """True where there is a reflection to learn."""
    return len(triplet.reflection.strip()) >= MIN_REFLECTION_CHARS


def lesson_of(triplet: Triplet, config: ReflectorConfig, seed: int) -> Lesson:
    """What triplet n teaches: always the same of the same n."""
    cot = triplet.cot
    if triplet.subset in RIGHT_SUBSETS and stable_seed(seed, "right", triplet.number) / 2**63 < config.right_share:
        return Lesson(asked_of(triplet, triplet.good, config), NOTHING_WRONG)
    if cot and stable_seed(seed, "cot", triplet.number) / 2**63 < config.cot_share:
        both = (triplet.good, triplet.bad) if cot["good_side"] == "left" else (triplet.bad, triplet.good)
        text = fill_prompt(load_prompt(config.compare_template), prompt=triplet.prompt)
        answer = {"Analysis": cot["analysis"], "Result": cot["good_side"], "Instructions": cot["instruction"]}
        return Lesson(ChatRequest(text, image_grid(both, config.image_px)), json.dumps(answer, ensure_ascii=False))
    return Lesson(asked_of(triplet, triplet.bad, config), triplet.reflection)


def asked_of(triplet: Triplet, image: np.ndarray, config: ReflectorConfig) -> ChatRequest:
    """The question about one image, as a search asks it."""
    return ChatRequest(fill_prompt(load_prompt(config.template), prompt=triplet.prompt), (image,))


class ReflectorTrainable(LessonTrainable):
    """See `trainers.lessons.LessonTrainable`."""

    name, written = "reflector", "reflections"
    config: ReflectorTrainingConfig

    def __init__(self, config: ReflectorTrainingConfig, held_out: ShardIndex, ranks: Rank = ALONE) -> None:
        super().__init__(config, ranks)
        self._held_out = held_out

    def lessons_of(self, samples: Sequence[Triplet]) -> tuple[list[str], list[Lesson]]:
        """Triplets without a reflection teach nothing."""
        config = self.config
        triplets = [t for t in samples if teaches(t)]
        return [t.subset for t in triplets], [lesson_of(t, config.model, config.loop.seed) for t in triplets]

    def held_out(self) -> list[Triplet]:
        """Those with a reflection, of the first `num_evaluated`."""
        if not len(self._held_out):
            return []
        dataset = PairDataset(TrainingOrder(self._held_out, EVEN_MIX, 1, EVALUATION_SEED))
        triplets = (dataset[n] for n in range(min(self.config.num_evaluated, 4 * len(self._held_out))))
        return [t for t in triplets if teaches(t)]

    def shown(self, sample: Triplet) -> Lesson:
        """The reflection on the flawed image alone."""
        return Lesson(asked_of(sample, sample.bad, self.config.model), sample.reflection)

    def evaluate(self) -> dict[str, float]:
        """And of right images the share of which it says that nothing is to be corrected."""
        found, config = super().evaluate(), self.config
        triplets = [t for t in self.held_out()[: config.num_written] if t.subset in RIGHT_SUBSETS]
        if not found or not triplets:
            return found
        with self._not_training():
            written = self._write([Lesson(asked_of(t, t.good, config.model), NOTHING_WRONG) for t in triplets])
        return found | {"right_left_alone": sum(map(nothing_to_correct, written)) / len(triplets)}

    def export_to(self, folder: Path) -> None:
        """And the words that it is to be asked in."""
        super().export_to(folder)
        if self._ranks.is_first:
            write_words(folder, load_prompt(self.config.model.template))


def open_training(config: ReflectorTrainingConfig, rank: Rank = ALONE) -> TrainingLoop:
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
    require_models([config.model.base_model, *filter(None, [config.start_from])])
    with telling(f"loading {config.model.base_model}"):
        trainable = ReflectorTrainable(config, held_out, rank)
    return TrainingLoop(
        trainable,
        order,
        config.loop,
        config.optimizer,
        config.out,
        rank,
        config.model.device,
        whole_model=config.model.full,
    )
