"""`python -m trainers verifier --data runs/demo --out runs/verifier`: train a verifier on a run's shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from trainers.commands.shared import parse_with_preset
from trainers.launch import LaunchConfig, launch
from trainers.verifier import RewardModelConfig, VerifierTrainingConfig, micro_verifier_training, open_training


@dataclass(frozen=True)
class Arguments:
    """Train a verifier (ReflectionFlow §3.2). Killed or interrupted, the same command goes on where it stopped."""

    preset: str = "micro"
    """Sizes and hyperparameters: micro, or qwen (the paper's, Qwen2.5-VL-3B)."""
    training: Annotated[VerifierTrainingConfig, tyro.conf.arg(name="")] = field(default_factory=VerifierTrainingConfig)
    launch: Annotated[LaunchConfig, tyro.conf.arg(name="")] = field(default_factory=LaunchConfig)


PRESETS = {
    "micro": lambda: Arguments("micro", micro_verifier_training("", Path("runs/verifier"))),
    "qwen": lambda: Arguments("qwen", replace(VerifierTrainingConfig(), model=RewardModelConfig(device="cuda"))),
}


def main(argv: Sequence[str]) -> int:
    """0 when the verifier is written to `out/verifier`."""
    arguments = parse_with_preset(Arguments, argv, "verifier", PRESETS)
    launch(open_training, arguments.training, arguments.training.out, arguments.launch)
    print(f"the verifier: {arguments.training.out / 'verifier'}")
    return 0
