"""A line a stage: done, rate, ETA, rejected, quarantined. Live with rich on a terminal, plain lines elsewhere."""

import logging
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any, Self

from schemas.plain_text import shown
from schemas.records import PromptRow
from schemas.terminal import say, say_error

log = logging.getLogger(__name__)
PLAIN_EVERY_S = 10.0


@dataclass
class StageProgress:
    """Counts of one stage. `already` were done before this process began, so they do not count towards the rate."""

    name: str
    total: int
    already: int = 0
    done: int = 0
    rejected: int = 0
    quarantined: int = 0
    seconds: float = 0.0

    def line(self, elapsed_s: float) -> str:
        """As text: `generate_candidates  12/48 units  1.3/s  ETA 0:28`."""
        rate = self.done / elapsed_s if elapsed_s > 0 and self.done else 0.0
        left = self.total - self.already - self.done
        parts = [f"{self.name:<22} {self.already + self.done}/{self.total} units"]
        if rate:
            parts.append(f"{rate:.2g}/s")
        if left and rate:
            parts.append(f"ETA {format_seconds(left / rate)}")
        if self.rejected:
            parts.append(f"{self.rejected} rejected")
        if self.quarantined:
            parts.append(f"{self.quarantined} in quarantine")
        return "  ".join(parts)


class Progress:
    """Shows the stages of a run while it works. Use as a context."""

    def __init__(self, stages: list[StageProgress], *, quiet: bool = False) -> None:
        self.stages = {stage.name: stage for stage in stages}
        self.quiet = quiet
        self.started = time.time()
        self._live = None

        self._over = threading.Event()

    def __enter__(self) -> Self:
        if sys.stderr.isatty() and not self.quiet:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(self._table(), console=Console(stderr=True), refresh_per_second=4)
            self._live.start()
        elif not self.quiet:
            threading.Thread(target=self._keep_printing, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._live is not None:
            self._live.update(self._table())
            self._live.stop()
        elif not self.quiet:
            self._print_lines()

    def add(self, stage: str, rows: list[PromptRow], seconds: float) -> None:
        """A unit of a stage was committed."""
        self.add_counts(
            stage,
            rejected=sum(r.rejection is not None and r.rejection.stage == stage for r in rows),
            quarantined=sum(r.quarantine is not None and r.quarantine.stage == stage for r in rows),
            seconds=seconds,
        )

    def add_counts(self, stage: str, *, rejected: int = 0, quarantined: int = 0, seconds: float = 0.0) -> None:
        """The same, from counts alone."""
        entry = self.stages[stage]
        entry.done += 1
        entry.rejected += rejected
        entry.quarantined += quarantined
        entry.seconds += seconds
        if self._live is not None:
            self._live.update(self._table())

    def _keep_printing(self) -> None:
        """Lines every ten seconds; where no unit was done since the last ones, one that says that work goes on."""
        shown = 0
        while not self._over.wait(PLAIN_EVERY_S):
            stages = list(self.stages.values())
            done = sum(stage.done for stage in stages)
            if done > shown:
                self._print_lines()
            else:
                at = next((stage for stage in stages if stage.already + stage.done < stage.total), stages[-1])
                elapsed_s = time.time() - self.started
                say_error(f"{at.line(elapsed_s)}  at work for {format_seconds(elapsed_s)}")
            shown = done

    def say(self, text: str) -> None:
        """A line of its own, into the log as well."""
        log.info("%s", text)
        if self._live is not None:
            self._live.console.print(shown(text), markup=False, highlight=False)
        elif not self.quiet:
            say_error(text)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._live is not None:
            self._live.stop()

    def _print_lines(self) -> None:
        elapsed_s = time.time() - self.started
        for stage in list(self.stages.values()):
            if stage.total:
                say(stage.line(elapsed_s), file=sys.stderr, flush=True)

    def _table(self) -> Any:
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for column in ("stage", "done", "rate", "ETA", "rejected", "quarantined"):
            table.add_column(column, justify="left" if column == "stage" else "right")
        elapsed = max(time.time() - self.started, 1e-9)
        for s in self.stages.values():
            rate = s.done / elapsed
            left = s.total - s.already - s.done
            eta = format_seconds(left / rate) if rate and left else ""
            done = f"{s.already + s.done}/{s.total}"
            table.add_row(s.name, done, f"{rate:.2g}/s" if rate else "", eta, str(s.rejected), str(s.quarantined))
        return table


class DoneOf:
    """ "12 of 40 images judged, about 0:20 to go": at most every ten seconds, and of the last."""

    def __init__(self, number: int, what: str) -> None:
        """Counts from now on."""
        self._number, self._what = number, what
        self._began = self._said = time.monotonic()

    def say(self, done: int, at_once: bool = False) -> None:
        """So many are done, at least one. at_once: it is said whenever the last time was."""
        now = time.monotonic()
        if at_once or done == self._number or now - self._said >= PLAIN_EVERY_S:
            self._said, rest = now, (now - self._began) / done * (self._number - done)
            to_go = f", about {format_seconds(rest)} to go" if rest else ""
            say(f"{done} of {self._number} {self._what}{to_go}")


def format_seconds(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
