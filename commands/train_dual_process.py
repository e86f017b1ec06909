"""`python -m trainers dual-process --config concept.yaml --out runs/concept`: teach a generator by a VLM's answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from commands.arguments import Preset, parse_with_preset
from commands.drawing_flags import drawing_flags
from inference.model_store import require_models
from recipes import catalogue
from schemas.atomic_file import write_whole
from schemas.errors import InputError
from schemas.stop_signal import stop_signal
from schemas.terminal import say
from trainers.checkpoint import Checkpoints
from trainers.concept_card import CARD, finished_key
from trainers.concept_file import read_concept
from trainers.distilled import Point
from trainers.dual_process import DualProcess, FooledError, NotConvergedError, check_vlms
from trainers.dual_process_config import DualProcessConfig

PAGE = "index.html"
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Arguments:
    """Dual-process distillation of one concept into a LoRA. Killed or interrupted, the same command goes on where it
    stopped."""

    config: Path
    """The concept's YAML file."""
    concept: str = ""
    """Name of the one that is meant, where the file holds several."""
    out: Path = Path("runs/concept")
    """LoRA, card, curve and pictures; checkpoints while it is not finished."""
    preset: Preset = field(default_factory=catalogue.default)
    training: Annotated[DualProcessConfig, tyro.conf.arg(name="")] = field(default_factory=DualProcessConfig)
    report_every: int = 10
    """Steps from one line of progress to the next; the first step has one, too."""
    resume: bool = False
    """Go on from a checkpoint or not at all. Without the flag a training goes on where there is one and else begins."""


def default_arguments(preset: str) -> Arguments:
    """What a preset says."""
    return Arguments(tyro.MISSING, preset=preset, training=catalogue.load(preset, "dual_process"))


def main(argv: Sequence[str]) -> int:
    """0 when the concept is learnt; 1 where the VLM does not give the wanted answers even then, or was fooled (the LoRA
    is kept)."""
    arguments = parse_with_preset(Arguments, argv, "dual-process", default_arguments, "trainers")
    concept = read_concept(arguments.config, arguments.concept)
    _check_own(arguments.out)
    require_models(arguments.training.models)
    check_vlms(arguments.training)
    there = finished_key(arguments.out)
    if arguments.resume and there is None and not Checkpoints(arguments.out / CHECKPOINTS).steps():
        raise InputError(
            f"no checkpoint in {arguments.out / CHECKPOINTS}",
            field="--resume",
            expected="the --out of a training, or no --resume",
        )
    import torch

    torch.set_num_threads(arguments.training.num_threads)
    flags = drawing_flags(arguments.preset, arguments.training.generator)
    models = DualProcess(arguments.training, drawing_flags=flags)
    if there == models.key_of(concept):
        return _say_finished(arguments.out)
    if there is not None:
        raise InputError(
            f"{arguments.out} holds another concept, or this one by other settings or models",
            field="--out",
            expected="another folder",
        )

    def report(point: Point) -> None:
        if point.step == 0 or (point.step + 1) % arguments.report_every == 0:
            line = f"{concept.name} {point.step + 1}/{arguments.training.steps}"
            asked = f"  asked {point.asked}/{len(concept.questions)}" if arguments.training.curriculum else ""
            say(f"{line}  loss {point.loss:.4g}  probability {point.probability:.3f}{asked}", flush=True)

    with stop_signal("the step") as stop:
        try:
            distilled = models.distill(concept, arguments.out, report, stop=stop)
        except NotConvergedError as error:
            _write_page(concept.name, "fooled" if isinstance(error, FooledError) else "not learnt", arguments.out)
            raise
    _write_page(concept.name, "learnt", arguments.out)
    before, after = distilled.before.probability, distilled.after.probability
    say(
        f"{concept.name}: {len(distilled.curve)} steps in {distilled.seconds:.0f} s; the answers' probability on other "
        f"seeds than it was trained on: {before:.2f} before, {after:.2f} after"
    )
    say(f"the LoRA: {arguments.out}; look at it: {arguments.out / PAGE}; draw with it:")
    say(f"  {json.loads((arguments.out / CARD).read_text())['command']}")
    return 0


def _say_finished(out: Path) -> int:
    """As it was when it ended: 0 when it is learnt."""
    card = json.loads((out / CARD).read_text())
    became = "learnt" if card["converged"] else "fooled" if card.get("fooled") else "not learnt"
    say(f"finished already, and {became}: {out}" + (f"\n  {card['why_not']}" if card.get("why_not") else ""))
    return 0 if card["converged"] else 1


def _check_own(out: Path) -> None:
    """InputError for a folder with files that no distillation made: its README.md or LoRA would be written over."""
    if (out / CARD).exists() or (out / CHECKPOINTS).exists():
        return
    found = next((path.name for path in out.iterdir() if not path.name.startswith(".")), None) if out.is_dir() else None
    if found is not None:
        raise InputError(
            f"holds {found!r}, and is no concept's folder: nothing is written over",
            file=str(out),
            field="--out",
            expected="a new folder, or one of this command",
        )


def _write_page(name: str, status: str, folder: Path) -> None:
    """Of a concept that is finished."""
    from pipelines.report.concepts_page import render_page, shown_concept

    shown = shown_concept(name, status, "", lambda file: (folder / file).read_bytes())
    write_whole(folder / PAGE, render_page(name, [shown]))
