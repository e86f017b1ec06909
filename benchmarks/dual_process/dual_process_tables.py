"""Tables 1 and 2 of Dual-Process Image Generation in miniature: do the VLM's answers teach the micro generator?

`python -m benchmarks.dual_process.dual_process_tables` distils each prompt of a commonsense set, as it stands and
expanded, at one step (with the few-step LoRA, where it is there) and at four. Images of seeds that were not trained on
are judged by the benchmark's own judge. Beside it: what the VLM thinks of the same images (so that reward hacking
shows) and the judge on unrelated prompts. Table 2 sets optimised latents against optimised weights.

`--set words` (`benchmarks.dual_process.micro_commonsense`): concept words that the VLM was taught and the generator was
not, and the generator's weakest tags; the VLM is asked about the prompt, and expands it. `--set known`
(`benchmarks.dual_process.known_pairs`): words that the generator knows; what they imply is asked about part by part,
and is the expanded prompt.

Every distillation is kept in --out: killed, the same command goes on. One takes about 20 s alone on a core (some 224
with the defaults and both settings: an hour and a half; `--settings multi-step --pairs-per-category 2` a quarter of an
hour), and up to 85 s with the questions of the known set (48 of all dev pairs at four steps, 160 of the sealed ones).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from benchmarks.dual_process.dual_process_tasks import FEW_STEPS, Tables, Task
from benchmarks.dual_process.known_pairs import known_pairs
from benchmarks.dual_process.micro_commonsense import commonsense_pairs
from benchmarks.results_file import (
    RESULTS,
    Circumstances,
    name_on_split,
    print_table,
    record_opening,
    run_command,
    save,
)
from benchmarks.search.search_arms import end_with_parent
from inference.judges.commonsense_t2i import CommonsensePair, accuracy_by_category, mean_over_pairs, pair_accuracy
from inference.judges.intervals import Interval, mean_over_tags
from inference.model_store import resolve_model
from schemas.errors import MissingWeightsError

SETTINGS = ("one step", "multi-step")
KINDS = ("base", "expanded")
LABELS = {"base": "Base Prompt", "expanded": "Expanded Prompt"}
PLOTS = Path("docs/images")


@dataclass(frozen=True)
class Arguments:
    """What is distilled."""

    set: Literal["words", "known"] = "words"
    """Concept words that the generator never saw and its weakest tags, or the fair set of words that it knows."""
    split: Literal["dev", "test"] = "dev"
    """test: the sealed pairs (of the words the weak tags alone); each opening is recorded in the results."""
    pairs: int = 0
    """Of the known set, the first so many, all kinds among them; 0: all."""
    pairs_per_category: int = 4
    """Of the words."""
    tries: int = 8
    """Images of each prompt, before and after."""
    settings: tuple[Literal["one step", "multi-step"], ...] = SETTINGS
    """At how many steps the generator draws."""
    asked: Literal["parts", "whole"] = "parts"
    """Of the known set: what a description says part by part, or whether the image matches it."""
    learning_rate: float = 0.0
    """0: the preset's."""
    keep_weight: float = 0.0
    """Of the prompts that are to stay as they are; 0: the preset's."""
    keep_prompts: int = 0
    """Training captions that are to, with a seed each, without those that a pair names; 0: the preset's, with four."""
    kinds: tuple[Literal["base", "expanded"], ...] = KINDS
    """Prompts as they stand, expanded, or both."""
    latents_per_category: int = 1
    """Prompts of each category in Table 2."""
    latent_tries: int = 4
    """Images of each of these, optimised one by one."""
    processes: int = 1
    """That distil side by side, a core each."""
    steps: int = 0
    """Training steps at most, to try the script out (figures go to --out then); 0: the preset's."""
    out: Path = Path("runs/dual_process_tables")
    """Where each distillation is kept."""

    @property
    def name(self) -> str:
        """Of the results and the plot."""
        return name_on_split("dual_process_tables" + ("_known" if self.set == "known" else ""), self.split)

    @property
    def chosen(self) -> list[CommonsensePair]:
        if self.set == "known":
            return known_pairs(self.split)[: self.pairs or None]
        return commonsense_pairs(self.pairs_per_category, sealed=self.split == "test")


def main() -> None:
    """Make what is missing, print both tables, save figures and plot."""
    arguments = tyro.cli(Arguments, description=__doc__)
    import torch

    torch.set_num_threads(1)
    circumstances = Circumstances.now(
        " ".join(["python -m benchmarks.dual_process.dual_process_tables", *sys.argv[1:]])
    )
    pairs = arguments.chosen
    figures: dict[str, Any] = {"arguments": {**asdict(arguments), "out": str(arguments.out)}, "num_pairs": len(pairs)}
    if arguments.split == "test":
        figures["openings"] = record_opening(RESULTS / f"{arguments.name}.json", circumstances)
    for setting in arguments.settings:
        if setting == "one step" and not _has_few_steps():
            print(f"{setting}: left out, {FEW_STEPS} is not there (python -m trainers micro --model flux_few_steps)")
            continue
        tables = _open(arguments, setting)
        results = _all_results(tables, setting, arguments)
        figures[setting] = {
            "table 1": table_1(setting, pairs, results),
            "table 2": table_2(setting, tables, pairs, arguments),
        }
    tried = arguments.out / "results.json" if arguments.steps else None
    against = "the same generator before it was taught"
    path = save(arguments.name, circumstances, figures, compared_with=against, path=tried)
    picture = (arguments.out if arguments.steps else PLOTS) / f"{arguments.name}.png"
    plot(figures, picture)
    print(f"figures: {path}; plot: {picture}")


def _has_few_steps() -> bool:
    try:
        resolve_model(FEW_STEPS)
    except MissingWeightsError:
        return False
    return True


def _open(arguments: Arguments, setting: str) -> Tables:
    return Tables(
        setting,
        arguments.chosen,
        arguments.tries,
        arguments.out,
        arguments.steps,
        described=arguments.asked if arguments.set == "known" else "",
        learning_rate=arguments.learning_rate,
        keep_weight=arguments.keep_weight,
        keep_prompts=arguments.keep_prompts,
    )


def _all_results(tables: Tables, setting: str, arguments: Arguments) -> dict[Task, dict[str, Any]]:
    places = product(range(len(arguments.chosen)), arguments.kinds, (0, 1))
    tasks = [Task(setting, pair, side, kind) for pair, kind, side in places]
    results: dict[Task, dict[str, Any]] = {}
    started = time.monotonic()
    for number, (task, found) in enumerate(zip(tasks, _results(tables, tasks, arguments), strict=True), 1):
        results[task] = found
        right = [float(np.mean(found[f"fits_{when}"])) for when in ("before", "after")]
        print(
            f"{number}/{len(tasks)}  {time.monotonic() - started:.0f} s  {task.name}: {found['prompt']!r}  "
            f"judge {right[0]:.2f} -> {right[1]:.2f}  VLM {found['vlm_before']:.2f} -> {found['vlm_after']:.2f}",
            flush=True,
        )
    return results


def _results(tables: Tables, tasks: Sequence[Task], arguments: Arguments) -> Iterator[dict[str, Any]]:
    """Of each task, in order; made by this process, or by as many as were asked for, with models of their own."""
    if arguments.processes == 1:
        yield from map(tables.result, tasks)
        return
    with ProcessPoolExecutor(arguments.processes, get_context("spawn"), _begin, (arguments, tables.setting)) as pool:
        yield from pool.map(_result, tasks)


_own: list[Tables] = []  # of a process that makes results for another one


def _begin(arguments: Arguments, setting: str) -> None:
    import torch

    end_with_parent()
    torch.set_num_threads(1)
    _own.append(_open(arguments, setting))


def _result(task: Task) -> dict[str, Any]:
    return _own[0].result(task)


def table_1(setting: str, pairs: list[CommonsensePair], results: dict[Task, dict[str, Any]]) -> dict[str, Any]:
    """Accuracy of pairs by category, before and after, and what changed."""
    figures: dict[str, Any] = {"rows": {}, "differences": {}}
    rows: list[list[Any]] = []
    values: dict[str, np.ndarray] = {}
    categories = list(dict.fromkeys(pair.category for pair in pairs))
    kinds = [kind for kind in KINDS if any(task.kind == kind for task in results)]
    for kind in kinds:
        for when, label in (("before", LABELS[kind]), ("after", f"{LABELS[kind]} + Ours")):
            fits = [
                [results[Task(setting, i, side, kind)][f"fits_{when}"] for side in (0, 1)] for i in range(len(pairs))
            ]
            values[label] = pair_accuracy(np.array(fits, bool))
            by_category, mean = accuracy_by_category(pairs, values[label]), mean_over_pairs(pairs, values[label])
            figures["rows"][label] = {"by_category": by_category, "avg": _plain(mean)}
            rows.append(
                [
                    label,
                    *[f"{100 * by_category[name]:.1f}" for name in categories],
                    Interval(100 * mean.value, 100 * mean.low, 100 * mean.high).shown(".1f"),
                ]
            )
    print(f"\nTable 1, {setting}: % of tries with both images right, {len(pairs)} pairs")
    print_table(["", *categories, "avg, 95 %"], rows)
    rows = []
    for kind in kinds:
        label = LABELS[kind]
        of_kind = {task: found for task, found in results.items() if task.kind == kind}
        changes = [
            mean_over_pairs(pairs, values[f"{label} + Ours"] - values[label]),
            *[_difference(of_kind, name) for name in ("fits", "vlm", "unrelated")],
        ]
        names = ("pairs right", "images right", "the VLM's opinion", "unrelated prompts right")
        figures["differences"][label] = {name: _plain(change) for name, change in zip(names, changes, strict=True)}
        rows.append([label, *[i.shown("+.3f") for i in changes]])
    print("What the distillation changed, paired, 95 %:")
    print_table(["", "pairs right", "images right", "the VLM's opinion", "unrelated prompts right"], rows)
    if len(kinds) == len(KINDS):
        expanded = mean_over_pairs(pairs, values["Expanded Prompt"] - values["Base Prompt"])
        figures["differences"]["expanded prompt alone"] = _plain(expanded)
    seconds = [found["seconds"] for found in results.values()]
    figures["seconds a distillation"] = float(np.mean(seconds))
    return figures


def _difference(results: dict[Task, dict[str, Any]], name: str) -> Interval:
    """Mean over prompts of after - before, prompts resampled by pair."""
    changes = [float(np.mean(f[f"{name}_after"])) - float(np.mean(f[f"{name}_before"])) for f in results.values()]
    return mean_over_tags(changes, ["all"] * len(changes), [task.pair for task in results])


def table_2(setting: str, tables: Tables, pairs: list[CommonsensePair], arguments: Arguments) -> dict[str, Any]:
    """Latents against weights: memory, time to optimise, time per image afterwards, and how often they are right."""
    chosen: dict[str, list[int]] = {}
    for number, pair in enumerate(pairs):
        chosen.setdefault(pair.category, []).append(number)
    tasks = [
        Task(setting, i, 0, "base") for numbers in chosen.values() for i in numbers[: arguments.latents_per_category]
    ]
    if not tasks:
        return {}
    found = [tables.latents(task, arguments.latent_tries) for task in tasks]

    def mean(name: str) -> float:
        return float(np.mean([np.mean(one[name]) for one in found]))

    mib = 2**20
    figures = {
        "latents": {
            "generator MiB": (mean("generator_bytes") + mean("latents_generator_kept_bytes")) / mib,
            "VLM MiB": (mean("vlm_bytes") + mean("latents_vlm_kept_bytes")) / mib,
            "s to optimise": mean("latent_seconds"),
            "s an image afterwards": mean("latent_seconds"),
            "right": mean("latents_right"),
            "right on other seeds": None,
        },
        "weights": {
            "generator MiB": (mean("generator_bytes") + mean("weights_generator_kept_bytes")) / mib,
            "VLM MiB": (mean("vlm_bytes") + mean("weights_vlm_kept_bytes")) / mib,
            "s to optimise": mean("weight_seconds"),
            "s an image afterwards": mean("draw_seconds"),
            "right": mean("weights_right"),
            "right on other seeds": mean("weights_right_on_others"),
        },
        "num_prompts": len(tasks),
    }
    print(f"\nTable 2, {setting}: one image optimised, {len(tasks)} prompts")
    rows = [
        [name, *["-" if (v := figures[m][name]) is None else f"{v:.3g}" for m in ("latents", "weights")]]
        for name in figures["latents"]
    ]
    print_table(["", "latents", "weights"], rows)
    return figures


def _plain(interval: Interval) -> list[float | None]:
    return interval.as_list()


def plot(figures: dict[str, Any], path: Path) -> None:
    """Accuracy with intervals, a panel a setting."""
    from matplotlib.figure import Figure

    settings = [name for name in SETTINGS if name in figures]
    if not settings:
        return
    figure = Figure(figsize=(4.2 * len(settings), 3.2), dpi=110, layout="constrained")
    for number, setting in enumerate(settings, 1):
        axes = figure.add_subplot(1, len(settings), number)
        rows = figures[setting]["table 1"]["rows"]
        for place, (label, row) in enumerate(rows.items()):
            value, low, high = 100 * np.array(row["avg"], float)
            color = "tab:blue" if label.endswith("Ours") else "0.7"
            axes.bar(place, value, color=color, yerr=[[value - low], [high - value]], capsize=4)
        axes.set_xticks(range(len(rows)), [label.replace(" Prompt", "\nPrompt") for label in rows], fontsize=7)
        axes.set(title=setting, ylabel="% of pairs right" if number == 1 else "")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})


if __name__ == "__main__":
    run_command(main)
