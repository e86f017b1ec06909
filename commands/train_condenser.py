"""`python -m trainers condenser --data runs/demo --out runs/condenser`: train a condenser of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from commands.arguments import Preset, parse_with_preset
from recipes import catalogue
from schemas.terminal import say
from trainers.condenser import CondenserTrainingConfig, open_training
from trainers.launch import LaunchConfig, launch
from trainers.training_plan import plan_condenser, print_plan


@dataclass(frozen=True)
class Arguments:
    """Train a condenser of prompts (ReflectionFlow §3.2). Killed or interrupted, the same command goes on where it
    stopped."""

    preset: Preset = field(default_factory=catalogue.default)
    training: Annotated[CondenserTrainingConfig, tyro.conf.arg(name="")] = field(
        default_factory=CondenserTrainingConfig
    )
    plan: bool = False
    """Say what memory and time it takes, and do nothing."""
    plan_gpu: str = "h100"
    """Which GPU the plan is for, where the device is one: h100, h200, a100-80gb, l40s, rtx4090."""
    launch: Annotated[LaunchConfig, tyro.conf.arg(name="")] = field(default_factory=LaunchConfig)


def default_arguments(preset: str) -> Arguments:
    """What a preset says."""
    return Arguments(preset, catalogue.load(preset, "condenser_training"))


def main(argv: Sequence[str]) -> int:
    """0 when the condenser is written to `out/condenser`."""
    arguments = parse_with_preset(Arguments, argv, "condenser", default_arguments, "trainers")
    training = arguments.training
    if arguments.plan:
        plan = plan_condenser(training, arguments.launch.workers)
        device = training.model.device
        print_plan(plan, training, device, arguments.plan_gpu, arguments.launch.workers)
        return 0
    launch(open_training, training, training.out, arguments.launch)
    say(f"the condenser: {training.out / 'condenser'}")
    return 0
