"""Many concepts, a folder each: distil what is missing, in this process or on Ray.

    runs/concepts/
      sunrise/     LoRA, card.json (written last), README.md, grid.png, curve.png; checkpoints while it is not finished
      index.html   all of them      summary.json   what became of each

A concept is one unit of work, but no unit of a run folder: what it makes is a LoRA for diffusers, no rows for a next
stage. It is input-addressed all the same: what a changed file, picture, setting or model concerns is distilled again,
and nothing else.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from inference.dual.concept import Concept
from pipelines.report.concepts_page import ShownConcept, render_page, shown_concept
from schemas.errors import InputError, LeaseHeldError, MissingWeightsError, ReflectionFlowError, StoppedError
from schemas.storage import LocalStorage, Storage
from trainers.concept_card import CARD, finished_key
from trainers.concept_file import concept_files, read_concept, read_concepts
from trainers.dual_process import NotConvergedError
from trainers.dual_process_config import DualProcessConfig

if TYPE_CHECKING:
    from trainers.dual_process import DualProcess

STOP = "stop-request"
"""Workers elsewhere leave the concept at hand, with a checkpoint, where `out` has this file."""
KEY = "key.txt"  # of whatever a concept's folder holds, finished or not
Status = Literal["learnt", "learnt before", "not learnt", "fooled", "failed"]


class Named(NamedTuple):
    """A concept by its name, and the file that it stands in: what a worker is told."""

    file: Path
    name: str


@dataclass(frozen=True)
class ConceptOutcome:
    """What became of one concept. detail: what went wrong, for people."""

    name: str
    file: str
    status: Status
    detail: str = ""
    probability_before: float | None = None
    probability_after: float | None = None
    seconds: float = 0.0

    @property
    def is_learnt(self) -> bool:
        return self.status in ("learnt", "learnt before")


class ConceptWorker:
    """Distils concepts into folders of `out`. Models are loaded at the first one that is not finished."""

    def __init__(
        self,
        out: Path,
        config: DualProcessConfig,
        models: DualProcess | None = None,
        stop: Callable[[], bool] = lambda: False,
        drawing_flags: str = "",
    ) -> None:
        """models: loaded ones, of this configuration. stop: leave the concept at hand with a checkpoint. drawing_flags:
        of the command that draws with a LoRA, for the cards."""
        self._drawing_flags = drawing_flags
        self.out, self.config, self._models, self.stop = out, config, models, stop

    def load(self) -> DualProcess:
        """The models. MissingWeightsError."""
        if self._models is None:
            import torch

            from trainers.dual_process import DualProcess

            torch.set_num_threads(self.config.num_threads)
            self._models = DualProcess(self.config, drawing_flags=self._drawing_flags)
        return self._models

    def make(self, named: Named) -> ConceptOutcome:
        """One concept. What is wrong with it is its outcome, not an error; MissingWeightsError is everyone's, as is
        StoppedError."""
        file, name = named
        try:
            concept = read_concept(file, name)
            models, folder = self.load(), self.out / name
            key = models.key_of(concept)
            if finished_key(folder) == key:
                return self._finished(name, file, "learnt before")
            if folder.exists() and _key_in(folder) != key:
                _check_own(folder)
                LocalStorage(self.out).delete(name)  # of an older file, of other settings or models
            folder.mkdir(parents=True, exist_ok=True)
            LocalStorage(folder).commit(KEY, key.encode())
            models.distill(concept, folder, stop=self.stop)
            return self._finished(name, file, "learnt")
        except (LeaseHeldError, MissingWeightsError, StoppedError):
            raise
        except NotConvergedError:
            return self._finished(name, file, "not learnt")
        except ReflectionFlowError as error:
            return ConceptOutcome(name, str(file), "failed", str(error))
        except Exception as error:  # whatever it is, the other concepts go on
            detail = f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
            return ConceptOutcome(name, str(file), "failed", detail)

    def _finished(self, name: str, file: Path, status: Status) -> ConceptOutcome:
        card = json.loads((self.out / name / CARD).read_text())
        before, after = card["probability_before"], card["probability_after"]
        detail = ""
        if not card["converged"]:
            status = "fooled" if card.get("fooled") else "not learnt"
            detail = card.get("why_not") or f"the answers' probability is {after:.2f}, {before:.2f} before"
        return ConceptOutcome(name, str(file), status, detail, before, after, card["seconds"])


def check_names(files: Sequence[Path]) -> tuple[list[Named], list[ConceptOutcome]]:
    """Concepts that can be worked on, and the outcomes of those that cannot: broken ones, and names that another
    has."""
    usable: list[Named] = []
    failed: list[ConceptOutcome] = []
    seen: dict[str, Path] = {}
    for file in files:
        try:
            for one in _all_of(file):
                if isinstance(one, Concept) and one.name in seen:
                    taken = f"the name {one.name!r} is {seen[one.name]}'s already"
                    error = InputError(taken, file=str(file), field="name")
                    failed.append(ConceptOutcome(file.stem, str(file), "failed", str(error)))
                elif isinstance(one, Concept):
                    seen[one.name] = file
                    usable.append(Named(file, one.name))
                else:
                    failed.append(ConceptOutcome(file.stem, str(file), "failed", str(one)))
        except Exception as error:  # whatever it is, the other concepts go on
            detail = f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
            failed.append(ConceptOutcome(file.stem, str(file), "failed", detail))
    return usable, failed


def _all_of(file: Path) -> list[Concept | InputError]:
    try:
        return read_concepts(file)
    except InputError as error:
        return [error]


def distill_here(worker: ConceptWorker, named: Iterable[Named], stop: Callable[[], bool]) -> Iterator[ConceptOutcome]:
    """One after the other, in this process, until asked to stop."""
    for one in named:
        if stop():
            return
        try:
            yield worker.make(one)
        except StoppedError:
            return


def distill_folder(
    concepts: Path,
    storage: Storage,
    run: Callable[[Sequence[Named]], Iterable[ConceptOutcome]],
    report: Callable[[ConceptOutcome], None],
) -> list[ConceptOutcome]:
    """Every concept of a folder, or of one file, by `run`; writes summary and page to storage. InputError for a folder
    without any."""
    usable, outcomes = check_names(concept_files(concepts))
    for outcome in outcomes:
        report(outcome)
    for outcome in run(usable):
        outcomes.append(outcome)
        report(outcome)
    outcomes = sorted(outcomes, key=lambda outcome: (outcome.file, outcome.name))
    storage.commit("summary.json", (json.dumps([asdict(o) for o in outcomes], indent=1) + "\n").encode())
    storage.commit("index.html", render_page(f"{len(outcomes)} concepts", [_shown(o, storage) for o in outcomes]))
    return outcomes


def _shown(outcome: ConceptOutcome, storage: Storage) -> ShownConcept:
    """What the page shows of a concept; pictures that do not read are left out."""
    what = outcome.detail.splitlines()[0] if outcome.detail else ""
    if outcome.probability_after is None:
        return ShownConcept(outcome.name, outcome.status, what)
    return shown_concept(outcome.name, outcome.status, what, lambda file: storage.read(f"{outcome.name}/{file}"))


def _check_own(folder: Path) -> None:
    """InputError for a folder that no distillation made: it is not to be deleted."""
    strangers = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    if strangers and not (folder / KEY).exists():
        raise InputError(
            f"holds {strangers[0]!r}, and is no concept's folder",
            file=str(folder),
            expected="another --run, or another name for the concept",
        )


def _key_in(folder: Path) -> str:
    try:
        return (folder / KEY).read_text()
    except FileNotFoundError:
        return ""


def summary_line(outcome: ConceptOutcome) -> str:
    """For the terminal."""
    line = f"{outcome.name}: {outcome.status}"
    if outcome.probability_after is not None:
        line += f", {outcome.probability_before:.2f} -> {outcome.probability_after:.2f} in {outcome.seconds:.0f} s"
    return line + (f"\n  {outcome.detail}" if outcome.detail and not outcome.is_learnt else "")


def counts_line(outcomes: Sequence[ConceptOutcome]) -> str:
    """How many of each."""
    counts: dict[str, int] = {}
    for outcome in outcomes:
        counts[outcome.status] = counts.get(outcome.status, 0) + 1
    return f"{len(outcomes)} concepts: " + ", ".join(f"{number} {status}" for status, number in counts.items())


def make_worker(out: str, config: DualProcessConfig, drawing_flags: str) -> Any:
    """For a runtime that makes its workers elsewhere. They stop where there is a `STOP` file."""
    return ConceptWorker(Path(out), config, stop=(Path(out) / STOP).exists, drawing_flags=drawing_flags)
