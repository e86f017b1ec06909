"""Four nodes, one of them lost every half minute: does the run end, conserved, with the same bytes?

    python -m tests.soak.lose_nodes --minutes 10

A toy run on Ray over four nodes (the head does no work). Every `--every` seconds one of the four dies with all that
runs on it, workers included, and another joins five seconds later. The run is as long as `--minutes`; losses go on
until it ends. Its shards must be byte for byte those of an undisturbed local run, `verify --deep` must have nothing to
say, and no block that was committed when a node died may be made again.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.results_file import Circumstances, save
from pipelines.conservation import verify
from tests.soak.arena import Arena
from tests.support import toy_runs
from tests.support.toy_job import ToyConfig, open_run

NUM_NODES, DRAWERS = 4, 2
SLEEP_S = 0.5
"""Of every call: undisturbed, two drawers make four units of four prompts a second."""
UNITS_PER_S = 1.6
"""What is left of that on two cores while a node dies every half minute (measured)."""
AWAY_S = 5.0
UNIT_PROMPTS = 4
SEED = 11


@dataclass(frozen=True)
class Report:
    """What came of it. made_again: of the blocks that were committed when a node was lost."""

    seconds: float
    nodes_lost: int
    prompts: int
    blocks: int
    same_shards: bool
    problems: tuple[str, ...]
    made_again: int
    exit_code: int

    @property
    def sound(self) -> bool:
        """Nothing is amiss."""
        return self.same_shards and not self.problems and not self.made_again and not self.exit_code


def lose_nodes(seconds: float, every_s: float, seed: int = SEED, most: int | None = None) -> Report:
    """One run of about so many seconds. most: nodes that are lost; None: until it ends."""
    prompts = max(24, int(seconds * UNITS_PER_S) * UNIT_PROMPTS)
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="lose-nodes-") as folder:
        expected, path = Path(folder) / "undisturbed", Path(folder) / "run"
        toy_runs.run(expected, ToyConfig(num_prompts=prompts, seed=seed))
        kept: dict[Path, tuple[int, int]] = {}
        lost = 0
        # A stage worker a node, and room for packing beside it.
        with Arena(SLEEP_S, NUM_NODES, node_cpus=2, head_cpus=0) as arena:
            started = time.monotonic()
            command = [sys.executable, "-m", "tests.soak.toy_on_ray", str(path), str(seed), str(prompts), str(DRAWERS)]
            said = Path(folder) / "driver.txt"
            with open(said, "w") as output:
                environment = os.environ | {"RAY_ADDRESS": arena.address}
                driver = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
            try:
                while driver.poll() is None:
                    until = time.monotonic() + every_s
                    while driver.poll() is None and (lost == most or time.monotonic() < until):
                        time.sleep(0.1)
                    if driver.poll() is not None:
                        break
                    kept = toy_runs.stamps(path) | kept
                    arena.look()
                    pid = arena.lose_node(rng.randrange(NUM_NODES))
                    lost += 1
                    after = time.monotonic() - started
                    print(f"{after:6.1f} s  lost node {lost} (raylet {pid}), {len(kept)} blocks committed", flush=True)
                    time.sleep(AWAY_S)
                    arena.add_node()
            finally:
                if driver.poll() is None:
                    driver.kill()
                driver.wait()
            took = time.monotonic() - started
            if driver.returncode:
                print(said.read_text()[-2000:], flush=True)
        after = toy_runs.stamps(path)
        return Report(
            round(took, 1),
            lost,
            prompts,
            len(after),
            toy_runs.shards(path) == toy_runs.shards(expected),
            tuple(verify(*open_run(str(path)), deep=True)),
            sum(after.get(block) != stamp for block, stamp in kept.items()),
            driver.returncode,
        )


def main() -> int:
    """0 when nothing is amiss."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--every", type=float, default=30.0, help="seconds between two losses")
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    command = f"python -m tests.soak.lose_nodes --minutes {arguments.minutes:g} --every {arguments.every:g}"
    circumstances = Circumstances.now(command)
    report = lose_nodes(60 * arguments.minutes, arguments.every)
    print(report)
    if arguments.out is not None:
        figures = asdict(report) | {"nodes": NUM_NODES, "every_s": arguments.every}
        save("lose_nodes", circumstances, figures, "an undisturbed local run of the same prompts", path=arguments.out)
    return 0 if report.sound else 1


if __name__ == "__main__":
    sys.exit(main())
