"""Units that no worker came back with: what hung, or brought its worker down, is found and put in quarantine.

A worker that hangs can only be ended, with all that it knows. So what must be remembered lies in the run folder, a file
a unit, which is there from the first time that a unit was given up until its block is committed:

    given_up/<stage>/<unit>.json    which rows a worker was at (the unit as a whole at first), and which rows, taken
                                    together, no worker came back with

The first time may be the worker's fault: the unit is done again as it was. After the second its rows are halved, and
what is left is one row that no worker comes back with.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipelines.run_folder import RunFolder
from pipelines.run_names import is_stage
from pipelines.stage import Step
from schemas.errors import CorruptDataError, ReflectionFlowError
from schemas.records import PromptRow


class NoAnswerError(ReflectionFlowError):
    """No worker came back with a row."""


@dataclass(frozen=True)
class GivenUp:
    """What is known of a unit. at_hand, lost: prompt ids. why: it was given up the last time."""

    why: str = ""
    at_hand: tuple[str, ...] = ()
    lost: tuple[tuple[str, ...], ...] = ()


def path_of(stage: str, unit: int) -> str:
    """In the run folder."""
    return f"given_up/{stage}/{unit:06d}.json"


def read(folder: RunFolder, step: Step, unit: int) -> GivenUp | None:
    """None for a unit that was never given up, or by a stage that would make something else; also where the file does
    not read: then it begins anew."""
    try:
        found = folder.read_checked(path_of(step.name, unit))
        if found["key"] != step.key:
            return None
        return GivenUp(found["why"], tuple(found["at_hand"]), tuple(tuple(ids) for ids in found["lost"]))
    except (FileNotFoundError, CorruptDataError, KeyError, TypeError):
        return None


def noted(folder: RunFolder) -> set[tuple[str, int]]:
    """Stage and unit of every note."""
    found = set()
    for stage in filter(is_stage, folder.storage.names("given_up")):
        for name in folder.storage.names(f"given_up/{stage}"):
            number = name.removesuffix(".json")
            if number.isascii() and number.isdigit():
                found.add((stage, int(number)))
    return found


def note(folder: RunFolder, step: Step, unit: int, why: str) -> None:
    """A unit is given up. why: as in "no answer within 30:00"."""
    before = read(folder, step, unit) or GivenUp()
    lost = (*before.lost, before.at_hand) if before.at_hand else before.lost
    _write(folder, step, unit, GivenUp(why, (), lost))


def forget(folder: RunFolder, step: Step, unit: int) -> None:
    """Its block is committed."""
    folder.storage.delete(path_of(step.name, unit))


class Care:
    """For a worker that does a unit again: what it is at, it says first."""

    def __init__(self, folder: RunFolder, step: Step, unit: int, known: GivenUp) -> None:
        self.folder, self.step, self.unit, self.known = folder, step, unit, known

    def begin(self, rows: Sequence[PromptRow]) -> None:
        """These rows are taken together now. NoAnswerError where nobody ever came back with them."""
        ids = tuple(row.prompt.prompt_id for row in rows)
        if ids in self.known.lost:
            raise NoAnswerError(f"{self.known.why}, on one worker after another")
        self.known = replace(self.known, at_hand=ids)
        _write(self.folder, self.step, self.unit, self.known)


def _write(folder: RunFolder, step: Step, unit: int, known: GivenUp) -> None:
    value = {
        "key": step.key,
        "why": known.why,
        "at_hand": list(known.at_hand),
        "lost": [list(ids) for ids in known.lost],
    }
    folder.write_checked(path_of(step.name, unit), value)
