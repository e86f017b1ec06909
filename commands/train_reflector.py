"""`python -m trainers reflector --data runs/demo --out runs/reflector`: train a reflector on a run's shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from commands.train_arguments import parse_with_preset
from trainers.launch import LaunchConfig, launch
from trainers.plan import plan_reflector, print_plan
from trainers.reflector import ReflectorConfig, ReflectorTrainingConfig, micro_reflector_training, open_training


@dataclass(frozen=True)
class Arguments:
    """Train a reflector (ReflectionFlow §3.3). Killed or interrupted, the same command goes on where it stopped."""

    preset: str = "micro"
    """Sizes and hyperparameters: micro, or qwen (Qwen2.5-VL-7B)."""
    training: Annotated[ReflectorTrainingConfig, tyro.conf.arg(name="")] = field(
        default_factory=ReflectorTrainingConfig
    )
    plan: bool = False
    """Say what memory and time it takes, and do nothing."""
    plan_gpu: str = "h100"
    """Which GPU the plan is for, where the device is one: h100, h200, a100-80gb, l40s, rtx4090."""
    launch: Annotated[LaunchConfig, tyro.conf.arg(name="")] = field(default_factory=LaunchConfig)


PRESETS = {
    "micro": lambda: Arguments("micro", micro_reflector_training("", Path("runs/reflector"))),
    "qwen": lambda: Arguments("qwen", replace(ReflectorTrainingConfig(), model=ReflectorConfig(device="cuda"))),
}


def main(argv: Sequence[str]) -> int:
    """0 when the reflector is written to `out/reflector`."""
    arguments = parse_with_preset(Arguments, argv, "reflector", PRESETS)
    training = arguments.training
    if arguments.plan:
        plan = plan_reflector(training)
        device = training.model.device
        print_plan(plan, training.loop, training.out, device, arguments.plan_gpu, arguments.launch.workers)
        return 0
    launch(open_training, training, training.out, arguments.launch)
    print(f"the reflector: {training.out / 'reflector'}")
    return 0
