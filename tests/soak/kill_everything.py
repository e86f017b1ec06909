"""Is anything lost or done twice when drivers, workers and nodes are killed at random moments?

    python -m tests.soak.kill_everything --kills 24 --out benchmarks/results/soak.json

Toy runs on Ray, a round each; SIGKILL for the driver (which is then started again), a worker of a stage, or a node.
After a round its shards must be byte for byte those of an undisturbed local run, `verify --deep` must have nothing to
say, and every block that was committed before a kill must be the same file still (inode and time). Prints a line a
kill, saves them with the log beside, and fails when anything is amiss or a process is left over at the end.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from benchmarks.results_file import Circumstances, save
from pipelines.conservation import verify
from tests.soak.arena import Arena, stage_worker
from tests.soak.rounds import NUM_BLOCKS, NUM_PROMPTS, Blow, Round, plan_rounds
from tests.support import toy_runs
from tests.support.toy_job import ToyConfig, open_run

SLEEP_S = 0.25
"""Of every call of the two first stages: a run takes a few seconds, so that kills find something at work."""
ROUND_LIMIT_S = 480.0
LEFTOVER_WAIT_S = 20.0


class RoundFailedError(Exception):
    """What went wrong in a round."""


@dataclass(frozen=True)
class Kill:
    """A kill that was made. after_s: since the round began."""

    round: int
    seed: int
    own_cluster: bool
    victim: str
    pid: int
    blocks_committed: int
    after_s: float


@dataclass(frozen=True)
class Outcome:
    """What a round came to. made_again: blocks that were committed before a kill and are another file now."""

    round: int
    kills: tuple[Kill, ...]
    seconds: float
    same_shards: bool
    problems: tuple[str, ...]
    made_again: int
    blocks_watched: int
    error: str = ""

    @property
    def sound(self) -> bool:
        """True when nothing is amiss."""
        return self.same_shards and not self.problems and not self.made_again and not self.error

    @property
    def text(self) -> str:
        """For the table."""
        if self.error:
            return f"FAILED: {self.error}"
        shards = "same bytes" if self.same_shards else "OTHER BYTES"
        return f"{shards}, {len(self.problems)} problems, {self.made_again} of {self.blocks_watched} made again"


class Fight:
    """One round at work."""

    def __init__(self, plan: Round, path: Path, arena: Arena, output: TextIO) -> None:
        self.plan, self.path, self.arena, self.output = plan, path, arena, output
        self.started = time.monotonic()
        self.kept: dict[Path, tuple[int, int]] = {}
        self.kills: list[Kill] = []
        self.driver = self._start_driver()

    def run(self) -> None:
        """Until the run is complete. RoundFailedError."""
        try:
            for blow in self.plan.blows:
                self._wait(lambda blow=blow: len(toy_runs.blocks(self.path)) >= blow.after_blocks)
                time.sleep(blow.delay_s)
                self._strike(blow)
            self._wait(lambda: self.driver.poll() is not None, may_end=True)
            if self.driver.returncode:
                raise RoundFailedError(f"the driver ended with exit code {self.driver.returncode}")
        finally:
            if self.driver.poll() is None:
                self.driver.kill()
                self.driver.wait()

    def _start_driver(self) -> subprocess.Popen[str]:
        environment = dict(os.environ)
        environment.pop("RAY_ADDRESS", None)
        if not self.plan.own_cluster:
            environment["RAY_ADDRESS"] = self.arena.address
        self.driver_since = time.time() - 0.1
        command = [sys.executable, "-m", "tests.soak.toy_on_ray", str(self.path), str(self.plan.seed), str(NUM_PROMPTS)]
        return subprocess.Popen(command, env=environment, stdout=self.output, stderr=self.output, text=True)

    def _wait(self, condition, *, may_end: bool = False) -> None:
        while not condition():
            if not may_end and self.driver.poll() is not None:
                raise RoundFailedError(f"the driver ended (exit code {self.driver.returncode}) before it was struck")
            if time.monotonic() - self.started > ROUND_LIMIT_S:
                raise RoundFailedError(f"not complete after {ROUND_LIMIT_S:.0f} s")
            time.sleep(0.02)

    def _strike(self, blow: Blow) -> None:
        worker = None
        if blow.victim not in ("driver", "node"):
            worker = stage_worker(self.path, blow.victim, since=self.driver_since)
            if worker is None:
                raise RoundFailedError(f"no worker of {blow.victim} to be killed")
        self.arena.look()
        stamps = toy_runs.stamps(self.path)
        after_s = round(time.monotonic() - self.started, 1)
        if worker is not None:
            pid = worker.pid
            worker.kill()
        elif blow.victim == "driver":
            pid = self.driver.pid
            self.driver.kill()
            self.driver.wait()
            self.driver = self._start_driver()
        else:
            pid = self.arena.kill_node()
        # The first stamp of a block counts: a later one may be of a block that was made again.
        self.kept = stamps | self.kept
        plan = self.plan
        self.kills.append(Kill(plan.number, plan.seed, plan.own_cluster, blow.victim, pid, len(stamps), after_s))


def fight(plan: Round, folder: Path, arena: Arena) -> Outcome:
    """One round, and what became of its run."""
    expected, path = folder / f"undisturbed_{plan.number}", folder / f"round_{plan.number}"
    started = time.monotonic()
    sleep_s = os.environ.pop("TOY_SLEEP_S")
    toy_runs.run(expected, ToyConfig(num_prompts=NUM_PROMPTS, seed=plan.seed))
    os.environ["TOY_SLEEP_S"] = sleep_s
    error, same, problems = "", False, ()
    with open(folder / f"driver_{plan.number}.txt", "w") as output:
        round_ = Fight(plan, path, arena, output)
        try:
            round_.run()
            same = toy_runs.shards(path) == toy_runs.shards(expected)
            problems = tuple(verify(*open_run(str(path)), deep=True))
        except RoundFailedError as failure:
            error = str(failure)
    after = toy_runs.stamps(path)
    made_again = sum(after.get(block) != stamp for block, stamp in round_.kept.items())
    return Outcome(
        plan.number,
        tuple(round_.kills),
        round(time.monotonic() - started, 1),
        same,
        problems,
        made_again,
        len(round_.kept),
        error,
    )


class Log:
    """Lines to the terminal and to a file."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        path.write_text("")

    def __call__(self, line: str) -> None:
        print(line, flush=True)
        with open(self.path, "a") as file:
            file.write(line + "\n")


def soak(rounds: Sequence[Round], log: Log) -> tuple[list[Outcome], list[str]]:
    """Every round, and the processes that are left over at the end (they are ended then)."""
    outcomes: list[Outcome] = []
    log(f"{'round':<6}{'seed':>5}  {'cluster':<8}{'killed':<14}{'blocks committed':>17}  {'after':>7}  result")
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        arena = Arena(SLEEP_S)
        with arena:
            for plan in rounds:
                outcome = fight(plan, Path(folder), arena)
                outcomes.append(outcome)
                for kill in outcome.kills:
                    place = "own" if kill.own_cluster else "shared"
                    when = f"{kill.blocks_committed} of {NUM_BLOCKS}"
                    text = outcome.text if kill is outcome.kills[-1] else ""
                    log(
                        f"{kill.round:<6}{kill.seed:>5}  {place:<8}{kill.victim:<14}{when:>17}  {kill.after_s:>5.1f} s"
                        f"  {text}"
                    )
                if not outcome.sound:
                    log(f"round {outcome.round}: {outcome.text}")
                    for problem in outcome.problems:
                        log(f"  verify: {problem}")
                    log((Path(folder) / f"driver_{outcome.round}.txt").read_text())
        left = arena.leftovers(LEFTOVER_WAIT_S)
        names = [f"{process.pid} {' '.join(process.cmdline())[:100]}" for process in left]
        for process in left:
            process.kill()
    return outcomes, names


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/soak.json"))
    arguments = parser.parse_args()
    seeded = f" --seed {arguments.seed}" if arguments.seed else ""
    circumstances = Circumstances.now(f"python -m tests.soak.kill_everything --kills {arguments.kills}{seeded}")
    log = Log(arguments.out.with_suffix(".log"))
    log(f"{circumstances.command}\n{circumstances.commit}\n{circumstances.machine}, {circumstances.started_at}\n")
    started = time.monotonic()
    try:
        outcomes, left = soak(plan_rounds(arguments.kills, arguments.seed), log)
    except BaseException:
        log(traceback.format_exc())
        raise
    kills = [kill for outcome in outcomes for kill in outcome.kills]
    sound = sum(outcome.sound for outcome in outcomes)
    seconds = round(time.monotonic() - started)
    by_victim = dict(Counter(kill.victim for kill in kills))
    passed = sound == len(outcomes) and len(kills) == arguments.kills and not left
    log(f"\n{len(kills)} kills ({', '.join(f'{n} {name}' for name, n in by_victim.items())}) in {seconds} s")
    log(f"{sound} of {len(outcomes)} rounds sound; {len(left)} processes left over {left or ''}")
    log("passed" if passed else "FAILED")
    figures = {
        "passed": passed,
        "kills": len(kills),
        "kills_by_victim": by_victim,
        "rounds": len(outcomes),
        "rounds_sound": sound,
        "blocks_watched": sum(outcome.blocks_watched for outcome in outcomes),
        "blocks_made_again": sum(outcome.made_again for outcome in outcomes),
        "processes_left_over": left,
        "seconds": seconds,
        "by_round": [asdict(outcome) for outcome in outcomes],
    }
    save("soak", circumstances, figures, "undisturbed local runs of the same seeds", path=arguments.out)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
