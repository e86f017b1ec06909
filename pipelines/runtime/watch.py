"""How long a unit may take, and the local runtime's watchdog: nobody waits in the dark, and nothing waits for ever."""

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Self

from inference.vlm.vllm_server import who_wait
from pipelines.run_folder import RunFolder
from pipelines.runtime import given_up
from pipelines.runtime.failures import FailurePolicy
from pipelines.runtime.progress import format_seconds
from pipelines.runtime.unit_worker import AtWork, UnitWorker
from schemas.terminal import say_error

log = logging.getLogger(__name__)
SAY_EVERY_S = 60.0
"""Between two lines about the same work."""
TIMES_SLOWEST, LEAST_S, FIRST_S = 20, 1800.0, 6 * 3600.0
_PAUSE_S = 5.0


class Limits:
    """How many seconds a unit of each stage may take: what was said, or twenty times the slowest seen and at least half
    an hour. Nobody knows what is usual before the first is back: six hours."""

    def __init__(self, policy: FailurePolicy) -> None:
        self.policy = policy
        self.slowest: dict[str, float] = {}

    def saw(self, stage: str, seconds: float) -> None:
        """A unit came back."""
        self.slowest[stage] = max(seconds, self.slowest.get(stage, 0.0))

    def of(self, stage: str, *, loading: bool = False) -> float:
        """For the next unit, or for loading the stage's models: six hours."""
        if loading:
            return FIRST_S
        if self.policy.unit_limit_s:
            return self.policy.unit_limit_s
        return max(LEAST_S, TIMES_SLOWEST * self.slowest[stage]) if stage in self.slowest else FIRST_S


class WatchedTime:
    """Seconds that somebody was looking: while the process is stopped, or its machine asleep, no time passes."""

    def __init__(self) -> None:
        self.now, self._looked = 0.0, time.monotonic()

    def look(self) -> float:
        """Now."""
        at = time.monotonic()
        self.now += min(at - self._looked, _PAUSE_S)
        self._looked = at
        return self.now


class Watchdog:
    """Says once a minute what this process has been at for longer than that, and ends it when a unit's limit has
    passed: a thread that hangs cannot be ended otherwise. Use as a context."""

    def __init__(self, folder: RunFolder, worker: UnitWorker, limits: Limits, close: Callable[[], None]) -> None:
        """close: leave the terminal as it was."""
        self.folder, self.worker, self.limits, self.close = folder, worker, limits, close
        self._over = threading.Event()
        self._began: dict[AtWork, float] = {}
        self._said: dict[AtWork, float] = {}

    def __enter__(self) -> Self:
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _watch(self) -> None:
        clock = WatchedTime()
        while not self._over.wait(1.0):
            self._look(clock.look())

    def _look(self, now: float) -> None:
        # The start of a server, which has a limit of its own, is none of a unit's time.
        at_work = [at for thread, at in dict(self.worker.at_work).items() if thread not in who_wait]
        self._began = {at: self._began.get(at, now) for at in at_work}
        self._said = {at: self._said.get(at, self._began[at]) for at in at_work}
        for at in at_work:
            seconds = now - self._began[at]
            if seconds > self.limits.of(at.step.name, loading=at.unit is None):
                self._end(at, seconds)
            if now - self._said[at] >= SAY_EVERY_S:
                self._said[at] = now
                self.worker.say(f"{at.step.name}: {_words(at)} for {format_seconds(seconds)}")

    def _end(self, at: AtWork, seconds: float) -> None:
        why = f"no answer within {format_seconds(seconds)}"
        if at.unit is not None:
            # The storage may be what hangs.
            noting = threading.Thread(target=given_up.note, args=(self.folder, at.step, at.unit, why), daemon=True)
            noting.start()
            noting.join(30.0)
        problem = (
            f"{at.step.name}: {_words(at)}: {why}; what hangs can only be ended with its process\n"
            f"  what is committed stays; `resume` tries the unit again, then finds the rows that hang and puts them in "
            f"quarantine"
        )
        log.error("%s", problem)
        try:
            self.close()
            say_error(f"error: {problem}")
        finally:
            os._exit(1)


def _words(at: AtWork) -> str:
    return "loading its models" if at.unit is None else f"at unit {at.unit}"
