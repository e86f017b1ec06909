"""`python -m trainers micro --model flux`: train the micro family on CPU or one GPU, resumably.

On a machine that does other work too, start it with `OMP_WAIT_POLICY=PASSIVE`: threads that spin while they wait for
a core that another process has cost up to twenty times the speed. On an idle machine, without it.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from commands.arguments import parse
from schemas.errors import InputError
from schemas.own_modules import full_name

# Model -> (module with `train(config)`, minutes on two cores that its shipped weights took). In the order of `all`.
MODELS: dict[str, tuple[str, float]] = {
    "vae": ("microworld.training.vae", 9.5),
    "flux": ("microworld.training.flux", 102.0),
    "flux-guidance": ("microworld.training.flux_guidance", 10.0),
    "flux-few-steps": ("microworld.training.flux_few_steps", 10.0),
    "grounding-dino": ("microworld.training.grounding_dino", 15.0),
    "sam": ("microworld.training.sam", 5.0),
    "judge": ("microworld.training.judge", 14.0),
    "rewards": ("microworld.training.clip_rewards", 14.0),
    "vlm": ("microworld.training.vlm", 33.0),
    "verifier": ("microworld.training.verifier", 10.0),
    "reflector": ("microworld.training.reflector", 6.0),
    "teacher": ("microworld.training.teacher", 90.0),
    "reader": ("microworld.training.reader", 60.0),  # none ships yet
}


@dataclass(frozen=True)
class MicroArgs:
    """Train models of the micro family. Killed or interrupted, the same command goes on where it stopped."""

    model: Literal[
        "vae",
        "flux",
        "flux-guidance",
        "flux-few-steps",
        "grounding-dino",
        "sam",
        "judge",
        "rewards",
        "vlm",
        "verifier",
        "reflector",
        "teacher",
        "reader",
        "all",
    ]
    """Which; `all` trains them one after the other."""
    minutes: float | None = None
    """Training time of the model, over all resumptions; the default is what the shipped weights took. With `all`,
    the time of all of them together, shared out in proportion."""
    work_dir: Path = Path("runs/micro")
    """Checkpoints, pools, curves and sample sheets."""
    out: Path = Path("microworld/weights")
    """Weights go to a folder a model below this one."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where it trains."""
    seed: int = 0
    """Of the first weights and of all training data."""
    threads: int = 2
    """CPU threads."""
    data_workers: int = 0
    """Processes that make training data ahead (a GPU needs many); 0: data is made between steps."""
    evaluate: bool = True
    """Ask the trained model what it learnt; `benchmarks/micro/micro_card` does so too."""
    from_exported: bool = False
    """Where there is no checkpoint, go on from the weights in --out at half the learning rate (judge, rewards, vlm,
    verifier, reflector, teacher, reader)."""


def main(argv: Sequence[str]) -> int:
    """0 when the weights are written."""
    arguments = parse(MicroArgs, argv, "micro", package="trainers")
    try:
        from microworld.training.training_loop import MicroTrainingConfig
    except ModuleNotFoundError as error:
        raise InputError(f"the micro world is not installed ({error.name})", expected="a full clone") from error
    if arguments.minutes is not None and arguments.minutes <= 0:
        raise InputError(f"{arguments.minutes} minutes", field="--minutes", expected="more than 0")
    names = list(MODELS) if arguments.model == "all" else [arguments.model]
    if arguments.model == "flux" and not (arguments.out / "flux" / "vae" / "config.json").exists():
        raise InputError(
            f"{arguments.out / 'flux' / 'vae'} holds no VAE",
            expected="`python -m trainers micro --model vae` first: FLUX trains on its latents",
        )
    total = sum(MODELS[name][1] for name in names)
    for name in names:
        module, usual_minutes = MODELS[name]
        share = usual_minutes / total
        config = MicroTrainingConfig(
            minutes=usual_minutes if arguments.minutes is None else arguments.minutes * share,
            work_dir=arguments.work_dir,
            out_dir=arguments.out,
            device=arguments.device,
            seed=arguments.seed,
            num_threads=arguments.threads,
            data_workers=arguments.data_workers,
            evaluate=arguments.evaluate,
            from_exported=arguments.from_exported,
        )
        importlib.import_module(full_name(module)).train(config)
    return 0
