"""`python -m trainers reflector --data runs/demo --out runs/reflector`: train a reflector on a run's shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from trainers.commands.shared import parse_with_preset
from trainers.launch import LaunchConfig, launch
from trainers.reflector import ReflectorConfig, ReflectorTrainingConfig, micro_reflector_training, open_training


@dataclass(frozen=True)
class Arguments:
    """Train a reflector (ReflectionFlow §3.3). Killed or interrupted, the same command goes on where it stopped."""

    preset: str = "micro"
    """Sizes and hyperparameters: micro, or qwen (Qwen2.5-VL-7B)."""
    training: Annotated[ReflectorTrainingConfig, tyro.conf.arg(name="")] = field(
        default_factory=ReflectorTrainingConfig
    )
    launch: Annotated[LaunchConfig, tyro.conf.arg(name="")] = field(default_factory=LaunchConfig)


PRESETS = {
    "micro": lambda: Arguments("micro", micro_reflector_training("", Path("runs/reflector"))),
    "qwen": lambda: Arguments("qwen", replace(ReflectorTrainingConfig(), model=ReflectorConfig(device="cuda"))),
}


def main(argv: Sequence[str]) -> int:
    """0 when the reflector is written to `out/reflector`."""
    arguments = parse_with_preset(Arguments, argv, "reflector", PRESETS)
    launch(open_training, arguments.training, arguments.training.out, arguments.launch)
    print(f"the reflector: {arguments.training.out / 'reflector'}")
    return 0
