"""`python -m trainers corrector --data runs/demo --out runs/corrector`: train a corrector on a run's shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from commands.arguments import Preset, parse_with_preset
from recipes import catalogue
from schemas.terminal import say
from trainers.corrector import CorrectorTrainingConfig, open_training
from trainers.launch import LaunchConfig, launch
from trainers.training_plan import plan_corrector, print_plan


@dataclass(frozen=True)
class Arguments:
    """Train a corrector (ReflectionFlow §3.3). Killed or interrupted, the same command goes on where it stopped."""

    preset: Preset = field(default_factory=catalogue.default)
    training: Annotated[CorrectorTrainingConfig, tyro.conf.arg(name="")] = field(
        default_factory=CorrectorTrainingConfig
    )
    plan: bool = False
    """Say what memory and time it takes, and do nothing."""
    plan_gpu: str = "h100"
    """Which GPU the plan is for, where the device is one: h100, h200, a100-80gb, l40s, rtx4090."""
    launch: Annotated[LaunchConfig, tyro.conf.arg(name="")] = field(default_factory=LaunchConfig)


def default_arguments(preset: str) -> Arguments:
    """What a preset says."""
    return Arguments(preset, catalogue.load(preset, "corrector_training"))


def main(argv: Sequence[str]) -> int:
    """0 when the corrector is written to `out/corrector`."""
    arguments = parse_with_preset(Arguments, argv, "corrector", default_arguments, "trainers")
    training = arguments.training
    if arguments.plan:
        plan = plan_corrector(training)
        device = training.flux.device
        print_plan(plan, training, device, arguments.plan_gpu, arguments.launch.workers)
        return 0
    launch(open_training, training, training.out, arguments.launch)
    say(f"the corrector: {training.out / 'corrector'}")
    return 0
