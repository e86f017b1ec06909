"""`python -m pipelines distill --concepts DIR`: teach a generator many concepts, each into a LoRA of its own."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from commands.arguments import Preset, parse_with_preset
from commands.drawing_flags import drawing_flags
from commands.runs import shared_uri
from inference.model_store import require_models
from pipelines.distill import (
    ConceptOutcome,
    ConceptWorker,
    Named,
    counts_line,
    distill_folder,
    distill_here,
    summary_line,
)
from pipelines.lease import Lease
from pipelines.stage import Workers
from recipes import catalogue
from schemas.errors import InputError
from schemas.places import local_path
from schemas.stop_signal import stop_signal
from schemas.storage import LocalStorage
from schemas.terminal import say
from trainers.concept_file import concept_files
from trainers.dual_process import check_vlms
from trainers.dual_process_config import DualProcessConfig
from trainers.ray_cluster import require_ray


@dataclass(frozen=True)
class DistillArgs:
    """Distil every concept of a folder. On a folder that has some of them already, the others are made."""

    concepts: Path
    """Folder of .yaml files, or one of them; each holds a concept, or several in the published form."""
    run: str = "runs/concepts"
    """Folder of what is made; on Ray, one that every node shares."""
    preset: Preset = field(default_factory=catalogue.default)
    training: DualProcessConfig = field(default_factory=DualProcessConfig)
    runtime: Literal["local", "ray"] = "local"
    """In this process, or on a Ray cluster (RAY_ADDRESS, or one started for the run)."""
    workers: Workers = field(default_factory=Workers)
    """On Ray: how many, and what each holds (presets on GPUs: one each)."""
    take_over: bool = False
    """Take the folder over from a driver that is known to be gone."""


def default_arguments(preset: str) -> DistillArgs:
    """What a preset says."""
    training, workers = catalogue.load(preset, "dual_process"), catalogue.load_or(preset, "distill_workers", Workers())
    return DistillArgs(concepts=tyro.MISSING, preset=preset, training=training, workers=workers)


def main(argv: Sequence[str]) -> int:
    """0: all learnt. 1: stopped before the end. 4: done, but some are not learnt or fooled, or could not be
    tried."""
    arguments = parse_with_preset(DistillArgs, argv, "distill", default_arguments)
    training = arguments.training
    devices = (training.generator.device, training.teacher.device, training.referee.device if training.referee else "")
    on_gpu = [device for device in devices if device.startswith("cuda")]
    if arguments.runtime == "ray" and on_gpu and not arguments.workers.gpus:
        raise InputError(
            f"workers without a GPU, and models on {on_gpu[0]}",
            field="--workers.gpus",
            expected="1, or a share of one; or models on the CPU",
        )
    flags = drawing_flags(arguments.preset, training.generator)
    concept_files(arguments.concepts)  # that there are any is said before weights are looked for
    require_models(training.models)
    check_vlms(training)
    out = local_path(Path(shared_uri(arguments.run, arguments.runtime)))
    with Lease(LocalStorage(out), take_over=arguments.take_over) as lease, stop_signal("the step") as asked:

        def stop() -> bool:
            lease.check()
            return asked()

        def run(concepts: Sequence[Named]) -> Iterable[ConceptOutcome]:
            if arguments.runtime == "ray":
                require_ray()
                from pipelines.runtime.ray_concepts import distill_on_ray

                return distill_on_ray(out, training, arguments.workers, concepts, stop, flags)
            return distill_here(ConceptWorker(out, training, stop=stop, drawing_flags=flags), concepts, stop)

        report = lambda outcome: say(summary_line(outcome), flush=True)  # noqa: E731
        outcomes = distill_folder(arguments.concepts, lease.storage, run, report)
        stopped = asked()
    say(counts_line(outcomes))
    if stopped:
        say(f"stopped; go on with the same command ({out})")
        return 1
    say(f"look at it: {out}/index.html")
    failed = [outcome for outcome in outcomes if not outcome.is_learnt]
    if failed:
        say(f"{len(failed)} failed, are fooled or not learnt: see {out}/summary.json", file=sys.stderr)
        return 4
    return 0
