"""The distilled LoRA under the search: does a taught generator need less search, and does search with the same VLM as
verifier still add to it? One table.

`python -m benchmarks.dual_process.distilled_search` takes the LoRAs that `dual_process_tables` distilled for its
weak-tag prompts of the dev split (positions, counts, two coloured objects; those that are not there yet are made
there), draws images of seeds that nothing has seen, by the generator as it was and by the taught one, and chooses among
the first n of them by the VLM's yes (`inference.vlm.verifier`). The judge says which images are right. All images are
drawn once; smaller n are replayed from them, in as many disjoint groups as there are.

Give --pairs-per-category and --tries as they were given there, else other LoRAs are made. Killed, the same command goes
on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.dual_process.dual_process_tasks import Tables, Task, read_result, write_result
from benchmarks.dual_process.micro_commonsense import WEAK_TAGS, commonsense_pairs
from benchmarks.results_file import Circumstances, print_table, run_command, save
from benchmarks.search.search_tables import budgets_upto, plain, signed
from inference.flux.generator import FluxGenerator
from inference.interfaces import Verifier
from inference.judges.intervals import Interval, mean_over_tags
from inference.model_store import model_digest
from inference.vlm.prompts import load_prompt
from inference.vlm.yes_no_verifier import YesNoVerifierConfig
from microworld.family import micro_vlm
from schemas.configuration import content_key, model_names

FIRST_SEED = 5000  # neither trained on (100 to 199) nor evaluated while it was learnt
GENERATORS = ("base", "taught")
VERIFIER = YesNoVerifierConfig(micro_vlm(), "micro/verify")  # asked yes or no: the same VLM that taught


@dataclass(frozen=True)
class Arguments:
    """Which LoRAs, and how much search."""

    pairs_per_category: int = 4
    tries: int = 8
    """Images by which `dual_process_tables` judged; part of what a LoRA's folder is called by."""
    budget: int = 8
    """Images of the largest search."""
    images: int = 32
    """Drawn of each prompt: the largest search is replayed so many times divided by its budget."""
    steps: int = 0
    """Training steps at most, to try the script out (figures go to --out then); 0: the preset's."""
    tables: Path = Path("runs/dual_process_tables")
    """The folder of `dual_process_tables`."""
    out: Path = Path("runs/distilled_search")


@dataclass(frozen=True, eq=False)
class Prompted:
    """One prompt's images by one generator. scores: the verifier's log-odds; right: the judge's verdicts; both (n,)."""

    tag: str
    pair: int
    scores: np.ndarray
    right: np.ndarray

    def chosen(self, budget: int) -> np.ndarray:
        """int (groups,): which images the verifier chooses from groups of `budget`, in the order drawn; of equally good
        ones the first."""
        groups = len(self.scores) // budget
        best = self.scores[: groups * budget].reshape(groups, budget).argmax(1)
        return best + budget * np.arange(groups)

    def share_right(self, budget: int) -> float:
        """Of the chosen images."""
        return float(self.right[self.chosen(budget)].mean())

    def share_possible(self, budget: int) -> float:
        """Of the groups that have a right image: what no verifier passes."""
        groups = len(self.right) // budget
        return float(self.right[: groups * budget].reshape(groups, budget).any(1).mean())

    def opinion(self, budget: int) -> float:
        """How probable the VLM finds Yes about the chosen images, of Yes and No."""
        return float((1 / (1 + np.exp(-self.scores[self.chosen(budget)]))).mean())


def main() -> None:
    """Make what is missing, print the table, save figures."""
    arguments = tyro.cli(Arguments, description=__doc__)
    import torch

    torch.set_num_threads(1)
    if arguments.budget < 1 or arguments.images % arguments.budget:
        raise SystemExit(f"error: {arguments.images} images; expected: a multiple of the budget, {arguments.budget}")
    circumstances = Circumstances.now(" ".join(["python -m benchmarks.dual_process.distilled_search", *sys.argv[1:]]))
    pairs = commonsense_pairs(arguments.pairs_per_category)
    tables = Tables("multi-step", pairs, arguments.tries, arguments.tables, arguments.steps)
    flux = tables.models.config.generator.flux
    assert flux is not None  # the settings here are all of FLUX
    base, verifier = FluxGenerator(flux), VERIFIER.open()
    tasks = [
        Task("multi-step", number, side, "base")
        for number, pair in enumerate(pairs)
        if pair.category in WEAK_TAGS
        for side in (0, 1)
    ]
    found: dict[str, list[Prompted]] = {name: [] for name in GENERATORS}
    for number, task in enumerate(tasks, 1):
        both = searched(task, tables, base, verifier, arguments)
        for name in GENERATORS:
            found[name].append(both[name])
        shares = "  ".join(f"{name} {both[name].share_right(1):.2f}" for name in GENERATORS)
        print(
            f"{number}/{len(tasks)}  {pairs[task.pair].prompts[task.side]!r}: single images right: {shares}", flush=True
        )
    figures = {"arguments": {k: str(v) if isinstance(v, Path) else v for k, v in asdict(arguments).items()}}
    figures |= {"num_prompts": len(tasks), **table(found, budgets_upto(arguments.budget))}
    print_search(figures)
    tried = arguments.out / "results.json" if arguments.steps else None
    against = "the generator before it was taught, and single images; the same seeds and verifier"
    path = save("distilled_search", circumstances, figures, compared_with=against, path=tried)
    print(f"figures: {path}")


def searched(
    task: Task, tables: Tables, base: FluxGenerator, verifier: Verifier, arguments: Arguments
) -> dict[str, Prompted]:
    """Both generators on one prompt, scored and judged; kept in a file."""
    pair = tables.pairs[task.pair]
    prompt, count = pair.prompts[task.side], arguments.images
    tables.result(task)  # where its LoRA is not there yet, it is made
    folder = tables.folder(task)
    models = [model_digest(name) for name in (*model_names(VERIFIER), *model_names(tables.judge.judge.config))]
    key = content_key(folder.name, models, load_prompt(VERIFIER.prompt), FIRST_SEED, count)
    path = arguments.out / f"{task.name}-{key[:8]}.json"
    kept = read_result(path, key)
    if kept is None:
        taught = FluxGenerator(replace(base.config, lora=str(folder)))
        kept = {}
        for name, generator in zip(GENERATORS, (base, taught), strict=True):
            images = generator.generate([prompt] * count, range(FIRST_SEED, FIRST_SEED + count))
            scores = verifier.score(images, [prompt] * count)
            right = tables.judge.shows(images, [prompt] * count)
            kept[name] = {"scores": scores.tolist(), "right": right.tolist()}
        write_result(path, key, kept)
    return {
        name: Prompted(pair.category, task.pair, np.array(of["scores"]), np.array(of["right"], bool))
        for name, of in kept.items()
    }


def table(found: dict[str, list[Prompted]], budgets: Sequence[int]) -> dict[str, Any]:
    """Rows by generator and budget; differences are paired by prompt, intervals are over pairs within each tag."""
    prompts = found[GENERATORS[0]]

    def mean(values: Sequence[float]) -> Interval:
        return mean_over_tags(values, [one.tag for one in prompts], [one.pair for one in prompts])

    def change(of: list[Prompted], at: int, other: list[Prompted], other_at: int) -> list[float | None]:
        return plain(mean([a.share_right(at) - b.share_right(other_at) for a, b in zip(of, other, strict=True)]))

    rows = []
    for name, searches in found.items():
        for budget in budgets:
            shares = [one.share_right(budget) for one in searches]
            of_tag = {
                tag: [s for s, one in zip(shares, searches, strict=True) if one.tag == tag]
                for tag in dict.fromkeys(one.tag for one in searches)
            }
            rows.append(
                {
                    "generator": name,
                    "images": budget,
                    "by_tag": {tag: round(float(np.mean(values)), 4) for tag, values in of_tag.items()},
                    "right": plain(mean(shares)),
                    "search adds": change(searches, budget, searches, 1),
                    "teaching adds": change(searches, budget, found["base"], budget),
                    "best there was": plain(mean([one.share_possible(budget) for one in searches])),
                    "vlm": plain(mean([one.opinion(budget) for one in searches])),
                }
            )
    single = next(row["right"][0] for row in rows if row["generator"] == "taught")
    enough = [row["images"] for row in rows if row["generator"] == "base" and row["right"][0] >= single]
    return {"rows": rows, "base images for one taught": enough[0] if enough else None}


def print_search(figures: dict[str, Any]) -> None:
    """The one table."""
    rows = figures["rows"]
    tags = list(rows[0]["by_tag"])
    print(f"\nBest of n by the VLM's yes, before and after distillation: {figures['num_prompts']} weak-tag dev prompts")
    print_table(
        ["generator", "images", *tags, "right, 95 %", "search adds", "teaching adds", "best there was", "VLM's yes"],
        [
            [
                row["generator"],
                row["images"],
                *(f"{row['by_tag'][tag]:.2f}" for tag in tags),
                str(Interval.from_list(row["right"])),
                signed(Interval.from_list(row["search adds"])) if row["images"] > 1 else "",
                signed(Interval.from_list(row["teaching adds"])) if row["generator"] == "taught" else "",
                f"{row['best there was'][0]:.2f}",
                f"{row['vlm'][0]:.2f}",
            ]
            for row in rows
        ],
    )
    enough, largest = figures["base images for one taught"], rows[-1]["images"]
    told = f"{enough} of the base's, chosen by the VLM" if enough else f"more than {largest} of the base's"
    print(f"One image of the taught generator is as often right as the best of {told}.")


if __name__ == "__main__":
    run_command(main)
