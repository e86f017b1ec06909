"""The corrector's training: a FLUX LoRA that draws again from the flawed image and the reflection.

ReflectionFlow §3.3, Eq. 4: flow matching on the target's tokens of [text; target; condition], the condition at timestep
0, everything frozen but the LoRA.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from inference.flux.condition_config import ConditionConfig
from inference.flux.corrector import CorrectorDescription, FluxCorrector, load_lora, read_description, save_corrector
from inference.flux.generator import FluxGenerator, FluxGeneratorConfig
from inference.generator import GeneratorConfig
from inference.model_store import require_models
from schemas.configuration import model_field, resumable_field
from schemas.errors import InputError
from schemas.telling import telling
from schemas.terminal import say
from trainers.checkpoint import exported
from trainers.corrector_batches import BatchConfig, BatchMaker, TrainingBatch, bucket_of, shaped
from trainers.encoded_triplets import EncodedTriplets
from trainers.loop import ALONE, LoopConfig, OptimizerConfig, Rank, TrainingLoop
from trainers.shard_dataset import EVEN_MIX, MixSchedule, PairDataset, TrainingOrder, Triplet, open_data
from trainers.shard_encoder import EncodingConfig
from trainers.shard_index import ShardIndex, open_index

if TYPE_CHECKING:
    import torch

EVALUATION_SEED = 7_000_003


@dataclass(frozen=True)
class CorrectorTrainingConfig:
    """One training. The defaults are the paper's, for FLUX.1-dev at 1024 px."""

    data: str = ""
    """Run folder, folder or glob of shards, local or s3://, or a dataset in the hub cache
    (`diffusion-cot/GenRef-wds`)."""
    out: Path = resumable_field(Path("runs/corrector"))
    """Checkpoints, curves and pictures; the corrector itself in `out/corrector`."""
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    condition: ConditionConfig = field(default_factory=ConditionConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    mix: MixSchedule = field(default_factory=MixSchedule)
    start_from: str = model_field("")
    """A corrector whose LoRA is trained further (a folder, or a model's name), of the same `condition`; empty: a new
    one."""
    held_out_share: float = 0.02
    """Share of the triplets that are kept for evaluation."""
    num_evaluated: int = resumable_field(64)
    """Held-out triplets that each evaluation looks at."""
    held_out_batch: BatchConfig | None = None
    """How held-out samples are made, where that is to be the same for trainings that differ in `batch`."""
    bf16: bool | None = resumable_field(None)
    """The frozen transformer in bfloat16; the LoRA stays in float32. None: wherever the device multiplies in it (GPUs,
    and CPUs with AVX512-BF16 or AMX: others take five times as long as in float32)."""
    encode: EncodingConfig = field(default_factory=EncodingConfig)
    compile: Literal["none", "whole", "blocks"] = resumable_field("none")
    """whole: one torch.compile graph a text length and size, for small models, which otherwise wait for Python; blocks:
    one graph a kind of block and shape, for large models and few shapes. The first steps take minutes."""
    guidance: float | None = None
    """What the corrector says it is to be drawn with; trained with 1, as published. None: the generator's own."""
    compiled_rows: int = resumable_field(16)
    """Samples that a whole graph takes at once; what does not fill it is padded."""
    recompute: bool = resumable_field(False)
    """Gradient checkpointing: blocks are computed again in the backward pass; a third more time, far less memory."""

    def __post_init__(self) -> None:
        if self.encode.ahead and self.batch.latents == "sample":
            raise InputError(
                "images that are encoded once have one sample for ever",
                field="batch.latents, encode.ahead",
                expected="the mode, or a training that encodes in every step",
            )
        if self.generator.sizes:
            raise InputError(
                "a training draws at the sizes of its batches", field="generator.sizes", expected="--batch.sizes"
            )

    @property
    def flux(self) -> FluxGeneratorConfig:
        """The generator that is corrected. InputError for a kind that is none of FLUX's."""
        chosen = self.generator.chosen
        if not isinstance(chosen, FluxGeneratorConfig):
            raise InputError(
                f"a corrector of {self.generator.kind!r}",
                field="generator.kind",
                expected="flux, which gets the LoRA",
            )
        return chosen

    @property
    def frozen_in_bf16(self) -> bool:
        """`bf16`, where it was left open by what this machine can do."""
        import torch

        if self.bf16 is not None:
            return self.bf16
        on_cpu = self.flux.device == "cpu"
        return not on_cpu or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


class CorrectorTrainable:
    """See `trainers.loop.Trainable`."""

    name = "corrector"

    def __init__(self, config: CorrectorTrainingConfig, held_out: ShardIndex) -> None:
        """Loads FLUX."""
        import torch

        from inference.flux.acceleration import allow_many_shapes
        from inference.flux.conditioning import ConditionedFlux
        from inference.flux.plain_attention import use_plain_attention
        from inference.sound_weights import sound_model

        self.config, self._held_out = config, held_out
        self.generator = FluxGenerator(config.flux)
        torch.manual_seed(config.loop.seed)
        self.model = ConditionedFlux(self.generator.pipeline.transformer, config.condition)
        if config.start_from:
            folder = sound_model(config.start_from)
            condition = read_description(folder).condition
            if condition != config.condition:
                raise InputError(f"{folder} has the condition {condition}", expected=f"{config.condition}")
            load_lora(self.model, folder)
        self.model.to(config.flux.device)
        if config.frozen_in_bf16:
            torch.nn.Module.to(self.model.base, torch.bfloat16)  # not diffusers' own, which warns
        if config.flux.device == "cpu":
            use_plain_attention(self.model.base)
        self._batches = BatchMaker(self.generator, config.batch, config.condition, config.loop.seed)
        if config.recompute or config.compile == "blocks":
            from inference.flux.conditioned_blocks import run_blocks

            run_blocks(self.model, compiled=config.compile == "blocks", recomputed=config.recompute)
        self._is_whole = config.compile == "whole"
        if self._is_whole:
            allow_many_shapes()
        self._velocity: Any = torch.compile(self.model, dynamic=False) if self._is_whole else self.model
        self.encoded: EncodedTriplets | None = None
        self._kept_batches: list[TrainingBatch] | None = None

    def encode_ahead(self, everything: ShardIndex, order: TrainingOrder) -> EncodedTriplets:
        """From here on the training's samples are numbers. everything: the index of which `order` has a part."""
        config = self.config
        self.encoded = EncodedTriplets(
            everything,
            order,
            self.generator,
            config.batch,
            config.condition,
            config.encode,
            config.loop.seed,
            config.loop.batch_size,
            config.out / "cache",
        )
        return self.encoded

    @property
    def module(self) -> torch.nn.Module:
        return self.model

    def losses(self, samples: Sequence[Any]) -> Iterator[tuple[list[str], torch.Tensor]]:
        """One part for each text length and size that occurs. samples: triplets, or numbers once they were encoded
        ahead."""
        if self.encoded is not None and not (samples and isinstance(samples[0], Triplet)):
            batches = self.encoded.tensors(samples)
        else:
            batches = self._batches(samples)
        for batch in batches:
            yield from self._parts(batch)

    def _parts(self, batch: TrainingBatch) -> Iterator[tuple[list[str], torch.Tensor]]:
        """Subsets and losses: of the batch, or in parts as the compiled graph takes them."""
        for part in batch.in_parts_of(self.config.compiled_rows if self._is_whole else 0):
            yield part.subsets, self.losses_of(part)[: len(part.numbers)]

    def losses_of(self, batch: TrainingBatch) -> torch.Tensor:
        """(B,) flow-matching losses on the target's tokens: velocity against noise - x0."""
        import torch

        noisy = torch.lerp(batch.x0, batch.noise, batch.t[:, None, None])
        velocity = self._velocity(
            noisy,
            batch.t,
            torch.ones_like(batch.t),
            batch.prompt_embeds,
            batch.pooled,
            batch.image_ids,
            batch.condition,
            batch.condition_ids,
        )
        error = (velocity.float() - (batch.noise - batch.x0).float()).square()
        return (error * batch.weight).mean((1, 2))

    def held_out_losses(self) -> list[tuple[str, float]]:
        """Subset and loss of each held-out sample; the same samples, times and noises at every call."""
        import torch

        losses: list[tuple[str, float]] = []
        with torch.no_grad():
            for batch in self._held_out_batches():
                for names, found in self._parts(batch):
                    losses += zip(names, found.tolist(), strict=True)
        return losses

    def evaluate(self) -> dict[str, float]:
        """Mean loss on held-out triplets, by subset and overall."""
        by_subset: dict[str, list[float]] = defaultdict(list)
        for subset, loss in self.held_out_losses():
            by_subset[subset].append(loss)
        every = [loss for losses in by_subset.values() for loss in losses]
        if not every:
            return {}
        mean = sum(every) / len(every)
        figures = {f"held_out/{name}": sum(losses) / len(losses) for name, losses in by_subset.items()}
        return figures | {"held_out": mean, "score": -mean}

    def draw_samples(self, step: int, count: int = 8) -> Path | None:
        """`samples/step_N.png`: flawed images, what the corrector makes of them, and the better images, a row each."""
        import numpy as np
        from PIL import Image

        triplets = self._held_out_triplets(count)
        if not triplets:
            return None
        corrector = FluxCorrector.of(self.model, self.description(), self.generator)
        buckets = self.config.batch.buckets
        pairs = [shaped(t.good, t.bad, bucket_of(t.good, buckets), lambda room: room // 2) for t in triplets]
        drawn = corrector.correct(
            [bad for _, bad in pairs],
            [t.prompt for t in triplets],
            [t.reflection for t in triplets],
            [EVALUATION_SEED + t.number for t in triplets],
        )
        # A column is as wide as its images, a row as high as the highest of all.
        height, width = max(size.height for size in buckets), max(size.width for size in buckets)
        rows = []
        for images in ([bad for _, bad in pairs], drawn, [good for good, _ in pairs]):
            row = [np.pad(image, ((0, height - len(image)), (0, 0), (0, 0)), constant_values=255) for image in images]
            rows.append(np.concatenate(row, axis=1))
        path = self.config.out / "samples" / f"step_{step:08d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet = Image.fromarray(np.concatenate(rows))
        scale = max(1, 128 // max(height, width))
        sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST).save(path)
        return path

    def description(self) -> CorrectorDescription:
        """What the exported corrector says of itself."""
        config = self.config
        return CorrectorDescription(config.condition, config.batch.condition_px, config.flux.model, config.guidance)

    def export(self) -> None:
        """`out/corrector`, as `FluxCorrector` loads it."""
        with exported(self.config.out / "corrector") as folder:
            save_corrector(folder, self.model, self.description())

    def _held_out_batches(self) -> Iterator[TrainingBatch]:
        """Of `num_evaluated` triplets; kept where the training's own are."""
        if self._kept_batches is None:
            size, triplets = self.config.loop.micro_batch, self._held_out_triplets(self.config.num_evaluated)
            maker = self._batches
            if self.config.held_out_batch is not None:
                maker = BatchMaker(
                    self.generator, self.config.held_out_batch, self.config.condition, self.config.loop.seed
                )
            made = (b for start in range(0, len(triplets), size) for b in maker(triplets[start : start + size]))
            if not self.config.encode.ahead:
                return made
            self._kept_batches = list(made)
        return iter(self._kept_batches)

    def _held_out_triplets(self, count: int) -> list[Triplet]:
        """Of the subsets in equal shares, at most four times as many as there are."""
        if not len(self._held_out):
            return []
        dataset = PairDataset(TrainingOrder(self._held_out, EVEN_MIX, 1, EVALUATION_SEED))
        return [dataset[n] for n in range(min(count, 4 * len(self._held_out)))]


def open_training(config: CorrectorTrainingConfig, rank: Rank = ALONE) -> TrainingLoop:
    """Opens the shards, loads FLUX and the newest checkpoint. InputError for what cannot be."""
    config.loop.check(rank.world_size)
    order, held_out = open_data(
        config.data, config.out, config.held_out_share, config.mix, config.loop.batch_size, config.loop.seed
    )
    require_models([config.flux.model, *filter(None, [config.start_from])])
    with telling(f"loading {config.flux.model}"):
        trainable = CorrectorTrainable(config, held_out)
    source = None
    if config.encode.ahead:
        with telling(f"encoding {len(order.index)} triplets"):
            source = trainable.encode_ahead(open_index(config.data, config.out / "cache"), order)
        say(f"corrector: {len(order.index)} triplets encoded, {source.num_bytes / 2**20:.0f} MiB", flush=True)
    device = config.flux.device
    return TrainingLoop(trainable, order, config.loop, config.optimizer, config.out, rank, device, source)
