"""How long does a driver take to find out what is left to do in a large run, and in how much memory?

    python -m benchmarks.runtime.decide_what_is_left [--units 1000000] [--units-on-s3 100000]

Local: a run of the dataset job's three stages with real files (empty ones; no file is opened for this), 1 % of the last
stage missing. S3: a server on loopback that answers listings alone, each after 0.1 s, as S3 takes for 1,000 names. Both
through the driver's own functions, each in a process of its own. Prints a table, and saves
benchmarks/results/decide_what_is_left.json.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from benchmarks.results_file import Circumstances, save
from pipelines import driver
from pipelines.driver import RunOptions
from pipelines.intake import lay_out
from pipelines.jobs import DatasetConfig, resolve_chains
from pipelines.run_folder import FOLDER_UNITS, FORMAT, RunFolder, RunInfo, root_key
from pipelines.runtime.progress import Progress
from pipelines.runtime.runtime import UnitTask
from schemas.open_storage import open_storage

LATENCY_S = 0.1
TARGET_S, TARGET_GIB = 10.0, 1.0


class CountTasks:
    """A runtime that only counts what it was given."""

    num_tasks = 0

    def make_units(
        self,
        tasks: Sequence[UnitTask],
        progress: Progress,
        shard_complete_with: Callable[[int], int | None],
        stop: Callable[[], bool],
    ) -> bool:
        """See `Runtime`."""
        self.num_tasks = len(tasks)
        return True

    def pack_shards(self, indices: Sequence[int], stop: Callable[[], bool]) -> bool:
        """See `Runtime`."""
        return True

    def close(self) -> None:
        """Nothing to close."""


def open_run(uri: str, num_units: int) -> tuple[RunFolder, DatasetConfig]:
    """A run of so many units, as `run.json` would have it."""
    config = DatasetConfig(num_prompts=num_units, unit_size=1)
    info = RunInfo(
        format=FORMAT,
        preset="micro",
        config=asdict(config),
        seed=config.seed,
        unit_size=config.unit_size,
        root_key=root_key(config.seed, config.unit_size, config.num_threads),
        segments=lay_out({"rule": num_units}, config.unit_size),
        digests={},
        intake={},
        code_commit="",
        created_at="",
    )
    return RunFolder(open_storage(uri), info), config


def measure(uri: str, num_units: int) -> dict[str, float]:
    """Seconds, peak memory and tasks of one decision, in this process."""
    folder, config = open_run(uri, num_units)
    before = peak_gib()
    runtime, started, cpu = CountTasks(), time.perf_counter(), time.process_time()
    chains = resolve_chains(folder, config)
    driver._make_units(folder, chains, config, RunOptions(quiet=True), runtime, lambda: False)
    seconds = time.perf_counter() - started
    cpu_seconds, gib = time.process_time() - cpu, peak_gib() - before
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
        "gib": round(gib, 3),
        "tasks": runtime.num_tasks,
    }


def peak_gib() -> float:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def lay_files(root: Path, num_units: int) -> None:
    """Blocks with their final names: one stage's files for real, the others as links to its folders."""
    folder, config = open_run(str(root), num_units)
    steps = [step for chain in resolve_chains(folder, config).values() for step in chain]
    first = root / "stages" / steps[0].name / steps[0].key
    num_folders = -(-num_units // FOLDER_UNITS)
    for number in range(num_folders):
        (first / f"{number:03d}").mkdir(parents=True)
        for unit in range(number * FOLDER_UNITS, min((number + 1) * FOLDER_UNITS, num_units)):
            os.close(os.open(root / folder.block_path(steps[0].name, steps[0].key, unit), os.O_CREAT | os.O_WRONLY))
    for step in steps[1:]:
        base = root / "stages" / step.name / step.key
        base.mkdir(parents=True)
        kept = num_folders - max(1, num_folders // 100) if step is steps[-1] else num_folders
        for number in range(kept):
            (base / f"{number:03d}").symlink_to(first / f"{number:03d}")


class Listings(BaseHTTPRequestHandler):
    """ListObjectsV2 of a run in which every block is there."""

    protocol_version = "HTTP/1.1"
    num_folders, requests = 0, 0

    def do_GET(self) -> None:
        Listings.requests += 1
        prefix = urllib.parse.parse_qs(urllib.parse.urlparse(self.path).query)["prefix"][0]
        body = self._listing(prefix).encode()
        time.sleep(LATENCY_S)
        self.send_response_only(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _listing(self, prefix: str) -> str:
        parts = prefix.strip("/").split("/")
        inside = ""
        if parts[1:2] == ["stages"] and len(parts) == 4:
            names = (f"{prefix}{number:03d}/" for number in range(self.num_folders))
            inside = "".join(f"<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>" for name in names)
        elif parts[1:2] == ["stages"] and len(parts) == 5:
            start = int(parts[4]) * FOLDER_UNITS
            names = (f"{prefix}{unit:06d}.parquet" for unit in range(start, start + FOLDER_UNITS))
            inside = "".join(f"<Contents><Key>{name}</Key><Size>9</Size></Contents>" for name in names)
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{inside}</ListBucketResult>"

    def log_message(self, format: str, *arguments: object) -> None:
        """Quiet."""


def in_a_process(uri: str, num_units: int, environment: dict[str, str]) -> dict[str, float]:
    """`measure`, alone."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.runtime.decide_what_is_left",
        "--measure",
        uri,
        "--units",
        str(num_units),
    ]
    done = subprocess.run(command, env=os.environ | environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def on_disk(num_units: int) -> dict[str, float]:
    """The local figure."""
    with tempfile.TemporaryDirectory() as root:
        lay_files(Path(root), num_units)
        return {"units": num_units, **in_a_process(root, num_units, {})}


def on_s3(num_units: int) -> dict[str, float]:
    """The figure for an object store."""
    Listings.num_folders = num_units // FOLDER_UNITS
    server = ThreadingHTTPServer(("127.0.0.1", 0), Listings)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    credentials = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "us-east-1"}
    endpoint = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}"}
    measured = in_a_process("s3://bucket/run", num_units, credentials | endpoint)
    server.shutdown()
    return {"units": num_units, **measured, "requests": Listings.requests, "latency_s": LATENCY_S}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=1_000_000)
    parser.add_argument("--units-on-s3", type=int, default=100_000)
    parser.add_argument("--measure", metavar="URI", help="only measure, here, and print JSON")
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.units)))
        return
    circumstances = Circumstances.now("python -m benchmarks.runtime.decide_what_is_left")
    figures = {"local": on_disk(arguments.units), "s3": on_s3(arguments.units_on_s3)}
    for place, row in figures.items():
        print(
            f"{place:<6} {row['units']:>9,} units  {row['seconds']:6.2f} s  {row['gib']:.2f} GiB  {row['tasks']:,} left"
        )
    print(f"target {TARGET_S:.0f} s, {TARGET_GIB:.0f} GiB")
    save(
        "decide_what_is_left",
        circumstances,
        figures,
        compared_with="the target: no other tool reads these folders",
        target={"seconds": TARGET_S, "gib": TARGET_GIB},
    )


if __name__ == "__main__":
    main()
