"""How a stage is run on rows that may fail: retry what may pass, shrink what is too big, quarantine what is broken.

Shared by every runtime. Nothing is quarantined for an outage, and an outage is what a probe confirms: when rows fail
alike in a row, or one that may pass does not, the stage gets a row that it has done before, or a plain prompt and
image. If it fails at that, too, the run stops; if not, the rows are to blame.
"""

import logging
import secrets
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pipelines.runtime.given_up import Care
from pipelines.runtime.plain_row import plain_row
from pipelines.stage import Stage
from schemas.errors import AccessError, LeaseHeldError, OutageError, TransientError, WorkFailedError
from schemas.records import PromptRow, Quarantine
from schemas.redaction import hide

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FailurePolicy:
    """When to try again and when to give up."""

    max_attempts: int = 5
    """Tries of what may pass: time-outs, a server that is busy."""
    first_wait_s: float = 0.5
    """Seconds before the second try; each wait is twice the one before."""
    max_wait_s: float = 30.0
    """Longest wait, in seconds."""
    outage_rows: int = 8
    """So many rows failing alike, one after the other, or a whole unit of at least four, look like an outage: the
    stage is probed, and the run stops if it fails at anything. 0: they go to quarantine."""
    unit_limit_s: float = 0.0
    """Seconds for a unit of a stage: then its worker is ended, and the unit tried again. 0: twenty times the slowest
    seen, at least half an hour, and six hours for the first."""


@dataclass(frozen=True)
class RowFailure:
    """A row that failed for good."""

    row: PromptRow
    error: str
    trace: str


class Breaker:
    """What is remembered of one loaded stage over units: how many rows failed alike, one after the other, a row that
    it could do, and whether it had to shrink its micro-batch."""

    def __init__(self) -> None:
        self.kind, self.count = "", 0
        self.good: PromptRow | None = None
        self.shrunk = False

    def success(self, row: PromptRow | None = None) -> None:
        """A row came through: this one, as it went in."""
        self.kind, self.count = "", 0
        self.good = self.good or row

    def failure(self, kind: str) -> int:
        """Another row failed. Returns how many in a row have failed in this way."""
        self.count = self.count + 1 if kind == self.kind else 1
        self.kind = kind
        return self.count


def execute(
    stage: Stage,
    rows: Sequence[PromptRow],
    policy: FailurePolicy,
    breaker: Breaker | None = None,
    sleep: Callable[[float], None] = time.sleep,
    care: Care | None = None,
) -> tuple[list[PromptRow], list[RowFailure]]:
    """Run a loaded stage on a unit's rows. Rejected and quarantined rows pass through with no cost.

    care: of a unit that was given up before. Returns a row for every row, in order, failed ones marked as quarantined,
    and the failures with their tracebacks. Raises OutageError when `outage_rows` rows fail alike in a row, or a
    transient failure does not pass, and the stage fails at a probe, too.
    """
    active = [(i, row) for i, row in enumerate(rows) if row.active]
    run = _Execution(stage, policy, breaker or Breaker(), sleep, len(active), care)
    done = dict(zip((i for i, _ in active), run.process([row for _, row in active]), strict=True))
    return [done.get(i, row if row.active else _free(row)) for i, row in enumerate(rows)], run.failures


def _free(row: PromptRow) -> PromptRow:
    return replace(row, cost=type(row.cost)())


class _Execution:
    def __init__(
        self,
        stage: Stage,
        policy: FailurePolicy,
        breaker: Breaker,
        sleep: Callable[[float], None],
        num_rows: int,
        care: Care | None,
    ) -> None:
        self.stage, self.policy, self.breaker, self.sleep, self.care = stage, policy, breaker, sleep, care
        self.outage_at = min(policy.outage_rows, max(4, num_rows))
        self.failures: list[RowFailure] = []

    def process(self, rows: list[PromptRow], *, bisected: bool = False) -> list[PromptRow]:
        if not rows:
            return []
        try:
            if self.care is not None:
                self.care.begin(rows)
            done = self._attempt(rows)
            self.breaker.success(rows[0])
            recovered = "smaller micro-batch" if self.breaker.shrunk else "fewer rows at once" if bisected else None
            return [replace(row, recovered=recovered) for row in done] if recovered else done
        except (AccessError, LeaseHeldError, WorkFailedError):
            raise
        except Exception as error:
            if len(rows) > 1:
                # Permanent for these rows together; bisect to the row that does it.
                half = len(rows) // 2
                return self.process(rows[:half], bisected=True) + self.process(rows[half:], bisected=True)
            return [self._quarantine(rows[0], error)]

    def _attempt(self, rows: list[PromptRow]) -> list[PromptRow]:
        wait = self.policy.first_wait_s
        attempt = 1
        while True:
            try:
                done = self.stage(rows)
                if len(done) != len(rows):
                    raise RuntimeError(f"{self.stage.name} returned {len(done)} rows for {len(rows)}")
                return done
            except Exception as error:
                kind = classify(error)
                if kind == "out_of_memory" and self.stage.shrink():
                    self.breaker.shrunk = True
                    log.warning("%s: out of memory, going on with a smaller micro-batch", self.stage.name)
                    continue
                if kind != "transient":
                    raise
                if attempt >= self.policy.max_attempts:
                    if probed := self._fails_at(rows[0]):
                        raise OutageError(
                            f"{self.stage.name}: {type(error).__name__}: {error}\n"
                            f"  tried {attempt} times, and {probed}; nothing was quarantined; `resume` goes on when "
                            f"it is back"
                        ) from error
                    raise  # it is there: these rows are what it does not answer
                log.warning("%s: %s; attempt %d of %d", self.stage.name, error, attempt, self.policy.max_attempts)
                self.sleep(wait)
                wait = min(2 * wait, self.policy.max_wait_s)
                attempt += 1

    def _quarantine(self, row: PromptRow, error: Exception) -> PromptRow:
        message = _printable(f"{type(error).__name__}: {error}")
        self.failures.append(RowFailure(row, message, _printable("".join(traceback.format_exception(error)))))
        alike = self.breaker.failure(type(error).__name__)
        if self.policy.outage_rows and alike >= self.outage_at:
            if probed := self._fails_at(row):
                earlier = alike - len(self.failures)  # of units before, which are committed
                kept = f"of this unit nothing was quarantined, {earlier} of units before it were: then `retry`"
                raise OutageError(
                    f"{self.stage.name}: {alike} rows failed alike, one after the other: {message}\n"
                    f"  and {probed}: this looks like an outage; mend the cause, then `resume` "
                    f"({kept if earlier > 0 else 'nothing was quarantined for it'})\n"
                    f"  with --failures.outage-rows 0 such rows go to quarantine"
                ) from error
            self.breaker.success()
        return replace(row, quarantine=Quarantine(self.stage.name, message[:2000]), cost=type(row.cost)())

    def _fails_at(self, row: PromptRow) -> str:
        """Probe the stage: what it fails at, "" where it works. A row that it has done shows most; servers are asked
        something new, since the journal has the answers to what they were asked before."""
        is_client = type(self.stage).is_client(self.stage.config)
        good = None if is_client else self.breaker.good
        what = "a plain prompt and image" if good is None else "a row that it had done before"
        try:
            self.stage([good or plain_row(row, secrets.token_hex(4))])
        except (AccessError, LeaseHeldError, WorkFailedError):
            raise
        except Exception as error:
            return _printable(f"{what} fails, too ({type(error).__name__}: {str(error)[:200]})")
        log.warning("%s: rows fail, but %s does not: the rows are to blame", self.stage.name, what)
        return ""


def _printable(text: str) -> str:
    """Without secrets, and without lone surrogates (file names have them), which neither JSON nor Arrow can write."""
    return hide(text.encode("utf-8", "replace").decode())


def classify(error: Exception) -> str:
    """ "transient" (may pass), "out_of_memory", or "permanent"."""
    if isinstance(error, (TransientError, TimeoutError, ConnectionError)):
        return "transient"
    if type(error).__name__ in ("OutOfMemoryError", "MemoryError"):  # torch's own, without importing torch
        return "out_of_memory"
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"APIConnectionError", "APITimeoutError", "RateLimitError", "InternalServerError"}:  # openai's
        return "transient"
    return "permanent"
