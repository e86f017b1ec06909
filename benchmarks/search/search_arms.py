"""The searches that `reflectionflow_tables` compares, each a run folder of its own, and a few processes that work them
off. Killed at any moment, the same command goes on where every run was."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from commands.runs import Finish, open_run, work
from commands.search import start_search
from inference.search import Strategy
from inference.verifier import VerifierKind
from microworld.instructed import InstructedToolsConfig
from microworld.oracles import OracleKind, OracleToolsConfig
from pipelines.driver import RunOptions
from pipelines.evaluation import Evaluation, evaluate
from pipelines.run_folder import RunFolder
from pipelines.search_cost import Spent, spent_by_round
from pipelines.search_job import SearchJobConfig

NOISE, PROMPT, WHOLE, REFLECTION = "noise", "noise+prompt", "noise+prompt+reflection", "reflection"
STRATEGIES: tuple[Strategy, ...] = (NOISE, PROMPT, WHOLE, REFLECTION)
NUM_BASE_IMAGES = 10
NOISE_REACH = 2.625  # micro: an image of the whole takes as long as so many of best-of-N
BASE_SEED = 7919  # of the images that tell a prompt's difficulty, and of nothing else


@dataclass(frozen=True)
class Arm:
    """One search over all prompts. weight: about how long it takes, so that long ones start first."""

    name: str
    job: SearchJobConfig

    @property
    def weight(self) -> float:
        """Images a search, each counted by what is done for it."""
        search, kinds = self.job.search, self.job.tools.verifier.kinds
        each = {NOISE: 1.0, PROMPT: 1.6, REFLECTION: 1.8, WHOLE: 2.2}[search.strategy]
        images = self.job.allocation.budget or search.budget
        return images * (each + ("prompted" in kinds) + 0.5 * len(self.job.also_score))


@dataclass(frozen=True)
class Found:
    """What an arm found, and what it spent by round."""

    arm: Arm
    evaluation: Evaluation
    spent: list[Spent] = field(default_factory=list)

    def spent_at(self, budget: int) -> Spent | None:
        """What all searches together had spent when each had `budget` images (or had finished that round)."""
        return next((spent for spent in self.spent if spent.images >= budget), None)


def with_search(base: SearchJobConfig, strategy: Strategy, width: int, depth: int, **changes: Any) -> SearchJobConfig:
    """`base` with another search."""
    return replace(base, search=replace(base.search, strategy=strategy, width=width, depth=depth), **changes)


def choosing(base: SearchJobConfig, *kinds: VerifierKind) -> SearchJobConfig:
    """`base` with another verifier."""
    return replace(base, tools=replace(base.tools, verifier=replace(base.tools.verifier, kinds=kinds)))


def strategy_arms(
    base: SearchJobConfig, depth: int, opinions: Sequence[VerifierKind], noise_depth: int = 0
) -> list[Arm]:
    """Table 1 and Fig. 5 middle; the whole gets second opinions (Fig. 5 left). noise_depth: rounds of best-of-N, where
    it is compared at equal wall time and needs more images than the others."""
    depths = dict.fromkeys(STRATEGIES, depth) | {NOISE: noise_depth or depth}
    arms = [Arm(strategy, with_search(base, strategy, 2, depths[strategy])) for strategy in STRATEGIES]
    return [replace(a, job=replace(a.job, also_score=tuple(opinions))) if a.name == WHOLE else a for a in arms]


def shape_arms(base: SearchJobConfig, budget: int) -> list[Arm]:
    """Table 2: width x depth at one budget, by the prompted verifier."""
    prompted = choosing(base, "prompted")
    shapes = [(budget // depth, depth) for depth in (1, 2, 4, 8, 16) if depth <= budget]
    return [Arm(f"shape-{w}x{d}", with_search(prompted, WHOLE, w, d)) for w, d in shapes]


def base_arm(base: SearchJobConfig) -> Arm:
    """Ten images a prompt whose seeds are used for nothing else: how difficult it is, and how good the base is."""
    return Arm("base", with_search(base, NOISE, NUM_BASE_IMAGES, 1, seed=BASE_SEED))


def allocated_arms(base: SearchJobConfig, depth: int) -> list[Arm]:
    """A quarter and half of the fixed scheme's images, spent by what the verifier says; no prompt gets more than twice
    the fixed scheme's. Chains go deep while corrections help, and wide where they do not."""
    search = with_search(base, REFLECTION, 2, 2 * depth)
    search = replace(search, search=replace(search.search, carry="best"))
    budgets = [depth / 2, float(depth)]
    return [
        Arm(f"allocated-{budget:g}", replace(search, allocation=replace(search.allocation, budget=budget)))
        for budget in budgets
        if budget >= 2
    ]


ORACLES: dict[str, tuple[OracleKind, ...]] = {
    "oracle-reflector": ("reflector",),
    "oracle-corrector": ("corrector",),
    "oracle-both": ("reflector", "corrector"),
}


def oracle_arms(base: SearchJobConfig, depth: int) -> list[Arm]:
    """Reflection with parts that see what the judge sees (not of sealed prompts)."""
    job = with_search(base, REFLECTION, 2, depth)
    tools = {name: OracleToolsConfig.of(job.tools, oracles) for name, oracles in ORACLES.items()}
    return [Arm(name, replace(job, tools=one)) for name, one in tools.items()]


EDITORS = {"editor": "edit", "editor-with-prompt": "edit_with_prompt"}
"""What the corrector's LoRA is told where it stands in for an editor: the reflection alone, or the prompt too."""


def editor_arms(base: SearchJobConfig, depth: int) -> list[Arm]:
    """Reflection with an editor in place of the paper's corrector."""
    job = with_search(base, REFLECTION, 2, depth)
    tools = {name: InstructedToolsConfig.of(job.tools, template) for name, template in EDITORS.items()}
    return [Arm(name, replace(job, tools=one)) for name, one in tools.items()]


ATOMS, ROUTED = "atoms", "atoms-routed"
"""Reflections of what a verifier finds to fail; and the same where a table says which failures are corrected at all."""


def atom_arms(base: SearchJobConfig, depth: int, routes: str) -> list[Arm]:
    """Reflection by the requirements that fail, with and without a learned route; chains go on from their best image,
    as those that they are compared with do. routes: the table; empty: only without."""
    job = with_search(base, REFLECTION, 2, depth)
    assert job.tools.critic is not None
    tools = replace(job.tools, critic=replace(job.tools.critic, kind="atoms"))
    arms = [Arm(ATOMS, replace(job, tools=tools))]
    if routes:
        routed = replace(job, search=replace(job.search, route="learned"), tools=replace(tools, routes=routes))
        arms.append(Arm(ROUTED, routed))
    return arms


def lacks_corrector(arm: Arm) -> bool:
    """True for a search that needs a corrector where none is named."""
    tools = arm.job.tools
    by_oracle = isinstance(tools, OracleToolsConfig) and "corrector" in tools.oracles
    return "reflection" in arm.job.search.strategy and not by_oracle and not _has_corrector(arm)


def _has_corrector(arm: Arm) -> bool:
    corrector = arm.job.tools.corrector
    return corrector is not None and corrector.names_a_model


def _has_own_tools(arm: Arm) -> bool:
    """Searches whose folder does not tell all of their tools: their own job does."""
    return isinstance(arm.job.tools, (OracleToolsConfig, InstructedToolsConfig))


def as_deep_as_there_is(arm: Arm, folder: Path) -> Arm:
    """The arm, or the same search as deep as it was made before: smaller depths are its beginning."""
    uri = str(folder / arm.name)
    if RunFolder.exists(uri) and not _has_own_tools(arm):
        _, config = open_run(uri)
        if isinstance(config, SearchJobConfig) and config.search.depth > arm.job.search.depth:
            deeper = replace(arm.job, search=replace(arm.job.search, depth=config.search.depth))
            return replace(arm, job=deeper)
    return arm


def run_arms(arms: Sequence[Arm], folder: Path, preset: str, options: RunOptions, processes: int) -> list[str]:
    """Every arm to its end, `processes` at a time, the longest first. Returns the names of those that failed."""
    waiting = sorted(arms, key=lambda arm: -arm.weight)
    context = multiprocessing.get_context("spawn")
    working: dict[Any, tuple[Arm, float]] = {}
    failed: list[str] = []
    while waiting or working:
        while waiting and len(working) < processes:
            arm = waiting.pop(0)
            process = context.Process(target=_work, args=(arm, str(folder), preset, options))
            process.start()
            working[process] = (arm, time.monotonic())
            print(f"  {arm.name}: begun ({folder / arm.name})", flush=True)
        multiprocessing.connection.wait([process.sentinel for process in working])
        for process in [p for p in working if p.exitcode is not None]:
            arm, started = working.pop(process)
            ended = f"{time.monotonic() - started:.0f} s"
            print(f"  {arm.name}: " + (f"done in {ended}" if process.exitcode == 0 else f"FAILED after {ended}"))
            if process.exitcode != 0:
                failed.append(arm.name)
                print(f"    see {folder / arm.name}.log", flush=True)
    return failed


def _work(arm: Arm, folder: str, preset: str, options: RunOptions) -> None:
    """In a process of its own, which ends with the one that started it: a run may be killed at any moment."""
    from schemas.errors import ReflectionFlowError

    end_with_parent()
    Path(folder).mkdir(parents=True, exist_ok=True)
    with open(f"{folder}/{arm.name}.log", "a", buffering=1) as log, _into(log):
        try:
            uri = f"{folder}/{arm.name}"
            known = _has_own_tools(arm) and RunFolder.exists(uri)
            run = RunFolder.open(uri) if known else start_search(uri, preset, arm.job, options)
            code = work(run, arm.job, options, Finish())
        except ReflectionFlowError as error:
            print(f"error: {error}")
            code = error.exit_code
    sys.exit(code)


def end_with_parent() -> None:
    """From now on this process ends when the one that started it does, however that ends."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


@contextlib.contextmanager
def _into(log: Any) -> Iterator[None]:
    with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        yield
        sys.stdout.flush()


def _end_with(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


def read_arm(arm: Arm, folder: Path) -> Found | None:
    """What a finished arm found; None for one that was not run or is not finished."""
    uri = str(folder / arm.name)
    if not RunFolder.exists(uri):
        return None
    run, config = (RunFolder.open(uri), arm.job) if _has_own_tools(arm) else open_run(uri)
    assert isinstance(config, SearchJobConfig)
    found = evaluate(run, config)
    if found.num_unfinished or not found.searches:
        return None
    return Found(arm, found, spent_by_round(run, config))
