"""How many pairs an hour a finished run made, and which stage held it up.

`python -m benchmarks.dataset.pairs_per_hour --run runs/demo` divides the seconds that each stage spent (from the run's
own statistics) by the pairs that were shipped, subset by subset and over all.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass

import tyro

from benchmarks.results_file import Circumstances, print_table, run_command, save
from commands.runs import open_run
from pipelines.conservation import tally
from pipelines.jobs import resolve_chains
from pipelines.report.figures import read_timings
from schemas.errors import InputError


@dataclass(frozen=True)
class Arguments:
    """Read a finished run."""

    run: str


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    circumstances = Circumstances.now(f"python -m benchmarks.dataset.pairs_per_hour --run {arguments.run}")
    folder, config = open_run(arguments.run)
    timings = read_timings(folder)
    seconds: defaultdict[str, float] = defaultdict(float)
    units: Counter[str] = Counter()
    for subset, steps in resolve_chains(folder, config).items():
        for step in steps:
            for unit in folder.units(subset):
                spent = timings.seconds.get((step.name, step.key, unit))
                if spent is not None:
                    seconds[step.name] += spent
                    units[step.name] += 1
    pairs = tally(folder, config).pairs["shipped"]
    if not seconds or not pairs:
        raise InputError("no statistics, or no pairs", file=arguments.run, expected="a finished run with its stats/")
    total = sum(seconds.values())
    rows = [
        [name, units[name], f"{spent:.1f}", f"{spent / total:.1%}", f"{3600 * pairs / spent:,.0f}"]
        for name, spent in seconds.most_common()
    ]
    print_table(["stage", "units", "seconds", "share", "pairs/hour of it alone"], rows)
    slowest, rate = seconds.most_common(1)[0][0], 3600 * pairs / total
    print(f"{pairs} pairs in {total:.0f} s of stages: {rate:,.0f} an hour; the slowest stage is {slowest}")
    figures = {
        "pairs": pairs,
        "seconds_by_stage": dict(seconds.most_common()),
        "pairs_per_hour": rate,
        "slowest_stage": slowest,
    }
    save("pairs_per_hour", circumstances, figures, compared_with="the stages among each other, one worker each")


if __name__ == "__main__":
    run_command(main)
