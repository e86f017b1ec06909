"""ReflectionFlow's results in miniature: `python -m benchmarks.search.reflectionflow_tables --split ...`.

Every search is a run folder under `--runs`; killed at any moment, the same command goes on. Tables: `budgets` (Table 1,
Fig. 5 middle), `shapes` (Table 2), `verifiers` (Fig. 5 left), `difficulty` (Fig. 5 right), `times` (what it costs, and
equal wall time), `allocation` and `atoms` (beyond the paper). On the dev split alone: `oracles` (what holds the result
back), `sureness` (where the allocator may stop), `editors` (what an instruction does in the place of the paper's
corrector).

A gain is the paired difference over prompts, the mean over tags, with its 95 % bootstrap interval over texts within
tags. Splits with "test" in their names are sealed: each opening is recorded in the results file before anything is
searched.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from benchmarks.results_file import RESULTS, Circumstances, record_opening, run_command, save
from benchmarks.search.reflectionflow_plots import draw_plots
from benchmarks.search.search_arms import (
    NOISE,
    NOISE_REACH,
    REFLECTION,
    STRATEGIES,
    WHOLE,
    Arm,
    Found,
    allocated_arms,
    as_deep_as_there_is,
    atom_arms,
    base_arm,
    editor_arms,
    lacks_corrector,
    oracle_arms,
    read_arm,
    run_arms,
    shape_arms,
    strategy_arms,
)
from benchmarks.search.search_tables import (
    allocation_table,
    atom_table,
    budget_table,
    difficulty_table,
    editor_table,
    oracle_table,
    shape_table,
    sureness_table,
    times_table,
    verifier_table,
)
from commands.arguments import flag_value
from inference.corrector import CorrectorConfig
from inference.flux.corrector import FluxCorrectorConfig
from inference.model_store import model_digest, resolve_model
from inference.requirements.reader import RequirementsConfig
from inference.search import Carry, Strategy
from inference.verifier import VerifierKind
from inference.vlm.vlm import VlmConfig
from microworld.scenes.evaluation_split import SEALED
from pipelines.driver import RunOptions
from pipelines.search_job import SearchJobConfig
from recipes import catalogue
from schemas.configuration import model_names
from schemas.errors import InputError, MissingWeightsError

Table = Literal[
    "budgets", "shapes", "verifiers", "difficulty", "times", "allocation", "oracles", "sureness", "editors", "atoms"
]
TABLES: tuple[Table, ...] = ("budgets", "shapes", "verifiers", "difficulty", "times", "allocation")
DIAGNOSES: tuple[Table, ...] = (
    "oracles",
    "sureness",
    "editors",
)  # made when they are asked for, on prompts that are not sealed
SHAPE_BUDGET = 16
TARGET = "base < best-of-N < ReflectionFlow at 32 images, each difference's interval above 0"


@dataclass(frozen=True)
class Arguments:
    """Which prompts, which models, which tables."""

    split: str = "micro-dev"
    """micro-dev, micro-hard-dev, micro-compositional-dev; micro-test, micro-hard-test, micro-hard-test-2,
    micro-compositional-test (sealed: for final tables alone); or a prompt file in GenEval's form."""
    preset: str = "micro"
    """micro, or one for GPUs (then with --split evaluation_metadata.jsonl)."""
    num_prompts: int = 0
    """Prompts, evenly over the tags; 0: all."""
    depth: int = 16
    """Rounds of width 2: the largest budget is twice as many images."""
    only: tuple[Table, ...] = ()
    """Only these tables, and the searches they need. `oracles` (what holds the result back), `sureness` (where the
    allocator may stop) and `editors` are made when they are named, and not on sealed prompts."""
    strategies: tuple[Strategy, ...] = STRATEGIES
    """Rows of `budgets`; tables that need a search of another one are made without it."""
    corrector: str | None = None
    """A corrector's folder or name, if not the preset's. Strategies that need one are left out where it is not here."""
    routes: str = ""
    """A table of routes, of the table `atoms`; without one its searches correct whatever fails."""
    reflector: str = ""
    """A trained reflector's; without one the VLM reflects."""
    trained_verifier: str | None = None
    """A Bradley-Terry verifier's, if not the preset's. Without one the verifiers' table lacks it."""
    vlm: VlmConfig | None = None
    """Who reflects, refines and verifies: the preset's, unless flags say otherwise."""
    carry: Carry = "own"
    """Whose image a chain goes on from (the paper: its own last one); the allocator's go on from their best."""
    verifier: tuple[VerifierKind, ...] = ("vlm",)
    """Who chooses in all tables but those of shapes and of verifiers; of several, their mean."""
    runs: Path = Path("runs/reflectionflow_tables")
    """Where the run folders lie."""
    processes: int | None = None
    """Searches at a time: without it two of local ones, a thread each, and one on Ray, which has all GPUs."""
    runtime: Literal["local", "ray"] | None = None
    """Where a search's stages run: without it on Ray for models on GPUs, where all searches share the VLM's vLLM."""
    out: Path | None = None
    """The results file, if not benchmarks/results/reflectionflow_tables.json (of dev: ..._dev.json, and so on)."""

    @property
    def tables(self) -> tuple[Table, ...]:
        return self.only or TABLES

    @property
    def results(self) -> Path:
        """The sealed split's has the plain name; the others say which split, and which carry, they are of."""
        split = Path(self.split).stem.removeprefix("micro-")
        more = [part for part in ("" if split == "test" else split, *self._differs) if part]
        return self.out or RESULTS / f"{'_'.join(['reflectionflow_tables', *more]).replace('-', '_')}.json"

    @property
    def _differs(self) -> list[str]:
        """What tells the searches from those that are made without flags."""
        carry = [] if self.carry == "own" else [self.carry]
        own = self.vlm is None or self.vlm.name == self.preset_job.vlm.name
        return carry if own or self.vlm is None else [*carry, re.sub(r"\W+", "-", self.vlm.name).strip("-").lower()]

    @property
    def preset_job(self) -> SearchJobConfig:
        """What the preset says."""
        return catalogue.load(self.preset, "search")

    @property
    def on_ray(self) -> bool:
        """Whether the stages run there."""
        on_gpu = self.preset_job.tools.generator.device != "cpu"
        return self.runtime == "ray" or (self.runtime is None and on_gpu)

    @property
    def at_a_time(self) -> int:
        """Searches."""
        return self.processes or (1 if self.on_ray else 2)

    @property
    def folder(self) -> Path:
        """Of the run folders."""
        return self.runs / "-".join([Path(self.split).stem, *self._differs])

    def command(self) -> str:
        """What anyone types to do it again; where it lies and how many work at it changes no figure but seconds."""
        default, words = Arguments(), ["python -m benchmarks.search.reflectionflow_tables"]
        for name in (f.name for f in fields(self) if f.name not in ("runs", "out", "processes", "vlm")):
            value = getattr(self, name)
            if value != getattr(default, name):
                words.append(f"--{name.replace('_', '-')} {' '.join(value) if isinstance(value, tuple) else value}")
        if self.vlm is not None:
            usual = self.preset_job.vlm
            changed = [f.name for f in fields(usual) if getattr(self.vlm, f.name) != getattr(usual, f.name)]
            words += [f"--vlm.{name.replace('_', '-')} {_as_words(getattr(self.vlm, name))}" for name in changed]
        return " ".join(words)

    def model(self, kind: Literal["corrector", "verifier"]) -> str:
        """What was named, or the preset's; empty where it is not there."""
        named, tools = self.corrector if kind == "corrector" else self.trained_verifier, self.preset_job.tools
        usual = tools.corrector if kind == "corrector" else tools.verifier.trained
        name = named if named is not None else next(iter(model_names(usual)), "") if usual else ""
        return name if _is_here(name) else ""


def main() -> None:
    arguments = parse_arguments(sys.argv[1:])
    if arguments.split in SEALED and set(arguments.only) & set(DIAGNOSES):
        raise InputError(f"{', '.join(DIAGNOSES)} on the sealed split", field="--only", expected="--split micro-dev")
    circumstances = Circumstances.now(arguments.command())
    openings = _openings(arguments, circumstances)
    job = catalogue.load(arguments.preset, "search")
    options = catalogue.load_or(arguments.preset, "run_options", RunOptions())
    base = _base_job(arguments, job)
    arms = _arms(arguments, base)
    left_out = [arm.name for arm in arms if lacks_corrector(arm)]
    if left_out:
        print(f"left out, without a corrector: {', '.join(left_out)}")
    possible = [as_deep_as_there_is(arm, arguments.folder) for arm in arms if not lacks_corrector(arm)]
    started = time.monotonic()
    options = replace(options, quiet=True, runtime="ray" if arguments.on_ray else "local")
    with one_cluster() if arguments.on_ray else nullcontext():
        failed = run_arms(possible, arguments.folder, arguments.preset, options, arguments.at_a_time)
    found = {arm.name: one for arm in possible if (one := read_arm(arm, arguments.folder)) is not None}
    figures: dict[str, Any] = {
        "split": arguments.split,
        "openings": openings,
        "models": _models(base),
        "num_searches": max((len(one.evaluation.searches) for one in found.values()), default=0),
        "searching_seconds": round(time.monotonic() - started),
        "left_out": left_out,
        "failed": failed,
    }
    for table in arguments.tables:
        figures[table] = MAKE[table](found, 2 * arguments.depth, " + ".join(arguments.verifier))
    compared_with = "best-of-N and the base, same prompts, same number of images; judged by what no search saw"
    path = save("reflectionflow_tables", circumstances, figures, compared_with, TARGET, arguments.results)
    print(f"\n{path}  {' '.join(str(p) for p in draw_plots(path))}")
    sys.exit(1 if failed else 0)


def parse_arguments(argv: list[str]) -> Arguments:
    """The preset is looked up first: its VLM gives the flags `--vlm.*` their defaults."""
    preset = flag_value(argv, "--preset") or Arguments().preset
    default = Arguments(preset=preset, vlm=catalogue.load(preset, "search").vlm)
    return tyro.cli(Arguments, args=argv, default=default, description=__doc__, config=(tyro.conf.AvoidSubcommands,))


@contextmanager
def one_cluster() -> Iterator[None]:
    """One cluster for all searches, so that no two of them load their models on the same GPU, and one vLLM answers them
    all: that of RAY_ADDRESS, or one that is started here."""
    if os.environ.get("RAY_ADDRESS"):
        yield
        return
    import ray

    from pipelines.runtime.ray import connect

    connect()
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    try:
        yield
    finally:
        del os.environ["RAY_ADDRESS"]
        ray.shutdown()


def _as_words(value: Any) -> str:
    return " ".join(value) if isinstance(value, tuple) else repr(value) if value == "" else str(value)


def _openings(arguments: Arguments, circumstances: Circumstances) -> list[dict[str, str]]:
    """Of a sealed split; none of others."""
    if arguments.split not in SEALED:
        return []
    return record_opening(arguments.results, circumstances)


def _base_job(arguments: Arguments, job: SearchJobConfig) -> SearchJobConfig:
    """What all searches share: whatever the arms do not vary is as the flags say it, or as in the paper, and the models
    are the preset's. The micro models work in large units, a thread each: two searches side by side take half the time
    of one on two threads."""
    tools = job.tools
    if "trained" in arguments.verifier and not arguments.model("verifier"):
        named = arguments.trained_verifier or "none is named"
        raise InputError(f"no trained verifier: {named}", field="--trained-verifier", expected="its folder")
    verifier = replace(tools.verifier, kinds=arguments.verifier)
    if verifier.trained:
        verifier = replace(verifier, trained=replace(verifier.trained, model=arguments.model("verifier")))
    critic = tools.critic
    if critic is not None and critic.vlm is not None:
        critic = replace(critic, kind="vlm", vlm=replace(critic.vlm, reflector=arguments.reflector))
    corrector = tools.corrector or CorrectorConfig()
    lora = arguments.model("corrector")
    corrector = replace(corrector, flux=replace(corrector.flux or FluxCorrectorConfig(), lora=lora))
    job = replace(
        job,
        vlm=arguments.vlm or job.vlm,
        prompts=arguments.split,
        num_prompts=arguments.num_prompts,
        search=replace(job.search, carry=arguments.carry),
        requirements=RequirementsConfig(),
        tools=replace(tools, verifier=verifier, critic=critic, corrector=corrector),
    )
    if not arguments.preset.startswith("micro"):
        return job
    return replace(job, unit_size=60, num_threads=1, vlm=replace(job.vlm, batch_size=128))


def _is_here(model: str) -> bool:
    if not model:
        return False
    try:
        return bool(resolve_model(model))
    except MissingWeightsError:
        return False


def _arms(arguments: Arguments, base: SearchJobConfig) -> list[Arm]:
    """The searches that the tables need."""
    tables = set(arguments.tables)
    opinions: list[VerifierKind] = []
    if "verifiers" in tables:
        kinds: list[VerifierKind] = ["vlm", "prompted", "trained", "rules", "rewards"]
        left_out = [arguments.verifier, () if arguments.model("verifier") else ("trained",)]
        opinions = [kind for kind in kinds if (kind,) not in left_out]
    noise_depth = round(NOISE_REACH * arguments.depth) if "times" in tables else arguments.depth
    arms = strategy_arms(base, arguments.depth, opinions, noise_depth)
    if not tables & {"budgets", "times"}:
        needed = {name for name, of in ARMS_OF.items() if tables & of}
        arms = [arm for arm in arms if arm.name in needed]
    arms = [arm for arm in arms if arm.name in arguments.strategies]
    if "shapes" in tables:
        arms += shape_arms(base, min(SHAPE_BUDGET, 2 * arguments.depth))
    if "allocation" in tables:
        arms += allocated_arms(base, arguments.depth)
    if "oracles" in tables:
        arms += oracle_arms(base, arguments.depth)
    if "editors" in tables:
        arms += editor_arms(base, arguments.depth)
    if "atoms" in tables:
        arms += atom_arms(base, arguments.depth, arguments.routes)
    if tables & {"difficulty", "budgets"}:
        arms.append(base_arm(base))
    return arms


def _models(base: SearchJobConfig) -> dict[str, Any]:
    """Who took part."""
    tools = base.tools
    return {
        "generator": next(iter(model_names(tools.generator)), ""),
        "num_steps": tools.generator.num_steps,
        "corrector": next(iter(model_names(tools.corrector)), "") if tools.corrector else "",
        "vlm": base.vlm.name,
        "reflector": tools.critic.vlm.reflector if tools.critic and tools.critic.vlm else "",
        "verifier": list(tools.verifier.kinds),
        "trained_verifier": tools.verifier.trained.model if tools.verifier.trained else "",
        "judge": base.judge.judge.label,
        "digests": {name: model_digest(name) for name in sorted(model_names(base)) if _is_here(name)},
    }


ARMS_OF: dict[str, set[Table]] = {
    NOISE: {"difficulty", "oracles", "sureness", "editors", "atoms"},
    WHOLE: {"difficulty", "verifiers"},
    REFLECTION: {"difficulty", "allocation", "sureness", "oracles", "editors", "atoms"},
}  # and `budgets` and `times` need them all
MAKE: dict[Table, Callable[[dict[str, Found], int, str], dict[str, Any]]] = {
    "budgets": budget_table,
    "shapes": shape_table,
    "verifiers": verifier_table,
    "difficulty": difficulty_table,
    "times": times_table,
    "allocation": allocation_table,
    "sureness": sureness_table,
    "oracles": oracle_table,
    "editors": editor_table,
    "atoms": atom_table,
}

if __name__ == "__main__":
    run_command(main)
