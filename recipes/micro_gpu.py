"""micro-gpu: the micro corrector's training on one GPU, with batches that keep it busy."""

from __future__ import annotations

from dataclasses import replace

from microworld import family
from recipes import micro
from trainers.corrector import CorrectorTrainingConfig
from trainers.loop import LoopConfig
from trainers.optimizer import OptimizerConfig
from trainers.shard_dataset import MixSchedule
from trainers.shard_encoder import EncodingConfig


def corrector_training() -> CorrectorTrainingConfig:
    """The micro FLUX on one GPU: everything encoded ahead, batches large enough that the GPU and not Python is busy."""
    return replace(
        micro.corrector_training(),
        generator=family.micro_generator(device="cuda", batch_size=64),
        loop=LoopConfig(
            steps=20_000,
            batch_size=1024,
            micro_batch=1024,
            evaluate_every=1000,
            checkpoint_every=500,
            report_every=100,
            read_every=20,
            ema_decay=0.998,
        ),
        optimizer=OptimizerConfig("adamw", 2e-3, warmup_steps=200, decay_steps=5000, max_gradient_norm=1.0),
        mix=MixSchedule(end=micro.EDITING_STAYS, steps=1000),
        num_evaluated=512,
        compiled_rows=256,
        encode=EncodingConfig(ahead=True, batch_size=1024, threads=8, fast_noise=True),
    )
