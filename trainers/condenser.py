"""The condenser's training: a Qwen2.5-VL learns to say long prompts shortly, from pairs of both.

ReflectionFlow §3.2, length-based subset: the short prompts are written by a fine-tuned model. (A run's default asks its
VLM in words instead.) The trainer is the reflector's; only request and answer differ, and there is no image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from inference.interfaces import ChatRequest
from inference.model_store import require_models
from inference.vlm.prompts import fill_prompt, load_prompt
from schemas.configuration import model_field, resumable_field
from schemas.telling import telling
from trainers.lessons import Lesson, LessonTrainable
from trainers.loop import ALONE, LoopConfig, OptimizerConfig, Rank, TrainingLoop
from trainers.text_pairs import TextPair, TextPairs, contents_of, hold_out_pairs, read_text_pairs


@dataclass(frozen=True)
class CondenserConfig:
    """Which model, and in which words it is asked."""

    base_model: str = "Qwen/Qwen2.5-VL-7B-Instruct"
    """Model zoo name, local folder or hub id."""
    template: str = "condense"
    """Template with {prompt}, for the long prompt: the one that `--condense.prompt` of a run then has."""
    full: bool = False
    """Train all weights and not a LoRA; several workers then share the model (FSDP2)."""
    rank: int = 64
    """Of the LoRA on the language model; its alpha is as large."""
    device: str = resumable_field("cpu")
    """Where it computes: cpu, cuda, cuda:1."""


@dataclass(frozen=True)
class CondenserTrainingConfig:
    """One training. Neither the paper's base model nor its hyperparameters are known: these are the reflector's."""

    data: str = ""
    """Pairs: a .jsonl or .parquet file, a folder or glob of them, here, on s3:// or hf://; or a run folder, whose
    length subset has them."""
    long: str = "long"
    """Field of a table that is the long prompt."""
    short: str = "short"
    """Field of a table that is the short prompt."""
    out: Path = resumable_field(Path("runs/condenser"))
    """Checkpoints, curves and short prompts to read; the condenser itself in `out/condenser`."""
    model: CondenserConfig = field(default_factory=CondenserConfig)
    start_from: str = model_field("")
    """An adapter of the base model that is trained further: a folder, a hub id, or a shipped one's name; its rank must
    be `model.rank`."""
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=2000, batch_size=32, micro_batch=8))
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(
            "adamw", 1e-4, warmup_steps=150, decay_steps=2000, max_gradient_norm=1.0
        )
    )
    held_out_share: float = 0.05
    """Share of the pairs that are kept for evaluation."""
    num_evaluated: int = resumable_field(128)
    """Held-out pairs that each evaluation looks at."""
    num_written: int = resumable_field(32)
    """Held-out prompts that are condensed at each evaluation, to be read (`out/samples`)."""
    bf16: bool = resumable_field(True)
    """Forward passes in bfloat16 (autocast); weights stay in float32."""
    recompute: bool = resumable_field(False)
    """Gradient checkpointing: layers are computed again in the backward pass; half more time, far less memory."""


class CondenserTrainable(LessonTrainable):
    """See `trainers.lessons.LessonTrainable`."""

    name, written = "condenser", "condensed"
    config: CondenserTrainingConfig

    def __init__(self, config: CondenserTrainingConfig, held_out: Sequence[TextPair], ranks: Rank = ALONE) -> None:
        super().__init__(config, ranks)
        self._held_out = held_out

    def lessons_of(self, samples: Sequence[TextPair]) -> tuple[list[str], list[Lesson]]:
        """Every pair teaches."""
        return list(TextPairs.subsets) * len(samples), [self.shown(pair) for pair in samples]

    def held_out(self) -> Sequence[TextPair]:
        """The first `num_evaluated`."""
        return self._held_out[: self.config.num_evaluated]

    def shown(self, sample: TextPair) -> Lesson:
        """The request as the condensing stage asks it."""
        text = fill_prompt(load_prompt(self.config.model.template), prompt=sample.prompt)
        return Lesson(ChatRequest(text), sample.short)


def open_training(config: CondenserTrainingConfig, rank: Rank = ALONE) -> TrainingLoop:
    """Reads the pairs, loads the base model and the newest checkpoint. InputError for what cannot be."""
    config.loop.check(rank.world_size)
    pairs = read_text_pairs(config.data, config.long, config.short)
    training, held_out = hold_out_pairs(pairs, config.held_out_share, config.loop.seed)
    contents = contents_of(config.data, config.out / "cache")
    samples = TextPairs(training, config.loop.seed, contents)
    require_models([config.model.base_model, *filter(None, [config.start_from])])
    with telling(f"loading {config.model.base_model}"):
        trainable = CondenserTrainable(config, held_out, rank)
    return TrainingLoop(
        trainable,
        samples,
        config.loop,
        config.optimizer,
        config.out,
        rank,
        config.model.device,
        samples,
        config.model.full,
    )
