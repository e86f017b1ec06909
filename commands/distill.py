"""`python -m pipelines distill --concepts DIR`: teach a generator many concepts, each into a LoRA of its own."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from commands.arguments import parse, preset_of, shared_uri
from inference.model_store import require_models
from pipelines.distill import (
    ConceptOutcome,
    ConceptWorker,
    counts_line,
    distill_folder,
    distill_here,
    summary_line,
)
from pipelines.driver import stop_signal
from pipelines.lease import Lease
from pipelines.stage import Workers
from schemas.errors import InputError
from schemas.storage import LocalStorage
from trainers.dual_process import dev_dual_process, micro_dual_process, schnell_dual_process
from trainers.dual_process_config import DualProcessConfig

PRESETS = {"micro": micro_dual_process, "schnell": schnell_dual_process, "dev": dev_dual_process}


@dataclass(frozen=True)
class DistillArgs:
    """Distil every concept of a folder. On a folder that has some of them already, the others are made."""

    concepts: Path
    """Folder of .yaml files, one a concept."""
    run: str = "runs/concepts"
    """Folder of what is made; on Ray, one that every node shares."""
    preset: str = "micro"
    """Models and hyperparameters: micro, schnell, dev."""
    training: DualProcessConfig = field(default_factory=DualProcessConfig)
    runtime: Literal["local", "ray"] = "local"
    """In this process, or on a Ray cluster (RAY_ADDRESS, or one started for the run)."""
    workers: Workers = field(default_factory=Workers)
    """On Ray: how many, and what each holds."""
    take_over: bool = False
    """Take the folder over from a driver that is known to be gone."""


def main(argv: Sequence[str]) -> int:
    """0: all learnt. 1: stopped before the end. 4: done, but some are not learnt, or could not be tried."""
    name = preset_of(argv)
    if name not in PRESETS:
        raise InputError(f"unknown preset {name!r}", field="--preset", expected=" or ".join(PRESETS))
    default = DistillArgs(concepts=tyro.MISSING, preset=name, training=PRESETS[name]())
    arguments = parse(DistillArgs, argv, "distill", default)
    require_models(arguments.training.models)
    out = Path(shared_uri(arguments.run, arguments.runtime))
    with Lease(LocalStorage(out), take_over=arguments.take_over), stop_signal() as stop:

        def run(files: Sequence[Path]) -> Iterable[ConceptOutcome]:
            if arguments.runtime == "ray":
                from pipelines.runtime.ray_concepts import distill_on_ray

                return distill_on_ray(out, arguments.training, arguments.workers, files, stop)
            return distill_here(ConceptWorker(out, arguments.training), files, stop)

        outcomes = distill_folder(arguments.concepts, out, run, lambda o: print(summary_line(o), flush=True))
        stopped = stop()
    print(counts_line(outcomes))
    if stopped:
        print(f"stopped; go on with the same command ({out})")
        return 1
    print(f"look at it: {out}/index.html")
    failed = [outcome for outcome in outcomes if not outcome.is_learnt]
    if failed:
        print(f"{len(failed)} are not learnt: see {out}/summary.json", file=sys.stderr)
        return 4
    return 0
