"""How long does a large run take, how busy are its GPUs, and what do lost nodes cost?

`python -m benchmarks.runtime.simulate_cluster` sends up to a million prompts through up to 1,000 simulated H100s, with
the flux preset's stages at `plan`'s rates, and nodes that never fail, fail as bought ones do, or are taken away as spot
machines are. It also asks how large a unit, the piece that is committed, may be. Prints a row a run, draws
docs/images/cluster_simulation.png.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.results_file import Circumstances, print_table, save
from benchmarks.runtime.cluster_model import Failures, Simulated, simulate
from pipelines.estimate import estimate
from pipelines.placement import Cluster
from recipes import flux

# Llama 3's report (Table 5): 419 unexpected interruptions in 54 days on 16,384 H100s, so one in 50,700 GPU hours.
OWNED = Failures(mean_hours=50_700 / 8, away_s=1800.0)
# Assumption: a spot node of 8 GPUs is taken back once a day, two minutes after it was said (AWS's notice).
SPOT = Failures(mean_hours=24.0, away_s=600.0, grace_s=120.0)
ROUGH = Failures(mean_hours=2.0, away_s=600.0)  # far beyond what is usual: every node lost every two hours, unannounced
SCENARIOS = {"none": Failures(), "owned": OWNED, "spot": SPOT, "rough": ROUGH}
SIZES = ((8, 8_000), (64, 64_000), (256, 256_000), (1000, 1_000_000))
LOAD_S = 120.0  # assumption: reading 40 GB of weights at some 400 MB/s, and compiling


@dataclass(frozen=True)
class Arguments:
    """What is simulated."""

    largest: int = 1000
    """GPUs of the largest cluster."""
    seed: int = 0
    picture: Path = Path("docs/images/cluster_simulation.png")


def stage_seconds(prompts_a_unit: int) -> tuple[list[float], list[str]]:
    """Seconds of one GPU for a unit in each stage of the flux preset that has a GPU, and where they come from."""
    config = flux.dataset()
    plan = estimate(config, Cluster(gpus=1, gpu_type="h100"))
    on_gpu = [stage for stage in plan.stages if stage.memory_gib and stage.seconds is not None]
    each = [(stage.seconds or 0.0) / config.num_prompts * prompts_a_unit for stage in on_gpu]
    return each, [f"{stage.name}: {stage.seconds_per_item:.2f} s an image, {stage.source}" for stage in on_gpu]


def run(prompts: int, gpus: int, failures: Failures, unit_size: int, seed: int) -> tuple[Simulated, dict[str, Any]]:
    """One simulation, and its figures."""
    seconds, _ = stage_seconds(unit_size)
    units = -(-prompts // unit_size)
    result = simulate(units, seconds, gpus, 8, failures, LOAD_S, seed=seed)
    total = gpus * result.wall_s
    figures = {
        "gpus": gpus,
        "prompts": prompts,
        "unit_size": unit_size,
        "hours": round(result.wall_s / 3600, 2),
        "hours_of_plan": round(units * sum(seconds) / gpus / 3600, 2),
        "utilisation": round(result.useful_s / total, 4),
        "lost_share": round(result.lost_s / total, 5),
        "away_share": round(result.away_s / total, 4),
        "idle_share": round(result.idle_s / total, 4),
        "lost_gpu_hours": round(result.lost_s / 3600, 1),
        "failures": result.failures,
        "peak_commits_per_s": round(result.peak_commits_per_s, 2),
    }
    return result, figures


def main(arguments: Arguments) -> None:
    """All of them."""
    circumstances = Circumstances.now("python -m benchmarks.runtime.simulate_cluster")
    sizes = [size for size in SIZES if size[0] <= arguments.largest]
    by_cluster: list[dict[str, Any]] = []
    for gpus, prompts in sizes:
        for name, failures in SCENARIOS.items():
            by_cluster.append({"scenario": name, **run(prompts, gpus, failures, 4, arguments.seed)[1]})
    gpus, prompts = sizes[-1]
    by_unit = [
        {"scenario": "spot", **run(prompts, gpus, SPOT, unit_size, arguments.seed)[1]}
        for unit_size in (1, 4, 16, 64, 256)
    ]
    header = ["nodes", "GPUs", "prompts", "a unit", "hours", "plan", "busy", "lost", "away", "idle", "lost nodes"]
    print_table(header, [_row(figures) for figures in by_cluster + by_unit])
    print("\n".join(stage_seconds(4)[1]))
    figures = {
        "stages": stage_seconds(4)[1],
        "load_s": LOAD_S,
        "scenarios": {name: _plain(failures) for name, failures in SCENARIOS.items()},
        "by_cluster": by_cluster,
        "by_unit": by_unit,
    }
    path = save("simulate_cluster", circumstances, figures, "`plan`: the same work, divided by the GPUs")
    draw(by_cluster, by_unit, arguments.picture)
    print(f"saved {path} and {arguments.picture}")


def draw(by_cluster: list[dict[str, Any]], by_unit: list[dict[str, Any]], path: Path) -> None:
    """Where the time of all GPUs goes: by cluster and way of failing, and by the size of a unit."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    parts = {"utilisation": "#2a9d8f", "lost_share": "#e76f51", "away_share": "#e9c46a", "idle_share": "#ccd5d5"}
    words = {"utilisation": "useful", "lost_share": "lost", "away_share": "no node or loading", "idle_share": "idle"}
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), width_ratios=(3, 1), layout="constrained")
    for axis, rows, label in (
        (axes[0], by_cluster, lambda row: f"{row['scenario']}\n{row['gpus']}"),
        (axes[1], by_unit, lambda row: str(row["unit_size"])),
    ):
        bottom = [0.0] * len(rows)
        for part, color in parts.items():
            shares = [100 * row[part] for row in rows]
            axis.bar(range(len(rows)), shares, 0.8, bottom, color=color, label=words[part])
            bottom = [b + s for b, s in zip(bottom, shares, strict=True)]
        axis.set_xticks(range(len(rows)), [label(row) for row in rows], fontsize=7)
        axis.set_ylim(60 if rows is by_unit else 80, 100)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("% of all GPUs' time (from 80)")
    axes[1].set_ylabel("(from 60)", fontsize=8)
    axes[0].set_xlabel("how nodes fail, and number of GPUs (1,000 prompts a GPU)", fontsize=8)
    axes[1].set_xlabel(f"prompts a unit ({by_unit[0]['gpus']} spot GPUs)", fontsize=8)
    axes[0].legend(loc="lower left", fontsize=7, framealpha=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _row(figures: dict[str, Any]) -> list[Any]:
    shares = [f"{100 * figures[name]:.2f} %" for name in ("utilisation", "lost_share", "away_share", "idle_share")]
    first = [figures["scenario"], figures["gpus"], f"{figures['prompts']:,}", figures["unit_size"]]
    return [*first, figures["hours"], figures["hours_of_plan"], *shares, figures["failures"]]


def _plain(failures: Failures) -> dict[str, Any]:
    """JSON knows no infinity."""
    return {name: value if value != float("inf") else None for name, value in asdict(failures).items()}


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
