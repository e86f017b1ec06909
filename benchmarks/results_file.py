"""What every benchmark saves beside its figures: the command, the commit, the machine, and how busy it was before."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from schemas.errors import ReflectionFlowError

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Circumstances:
    """Taken when a benchmark starts: its own work is not in the load."""

    command: str
    commit: str
    machine: str
    cores: int
    load_at_start: tuple[float, float, float]
    """Load averages over 1, 5 and 15 minutes: a time taken on a busy machine is worth little."""
    started_at: str

    @classmethod
    def now(cls, command: str) -> "Circumstances":
        """command: what anyone types to run the benchmark again."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        one, five, fifteen = (round(load, 2) for load in os.getloadavg())
        return cls(
            command=command,
            commit=_commit(),
            machine=f"{platform.machine()}, {cores} cores, {_cpu_model()}, {_memory_gib():.0f} GiB, "
            f"Python {platform.python_version()}",
            cores=cores,
            load_at_start=(one, five, fifteen),
            started_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        )


def run_command(main: Callable[[], None]) -> None:
    """A benchmark from the command line: an error that names its cause is one line, not a traceback."""
    try:
        main()
    except ReflectionFlowError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def name_on_split(benchmark: str, split: str) -> str:
    """Of a results file: the benchmark's, and the split where it is not dev ("corrector_gain_hard_test")."""
    return benchmark if split == "dev" else f"{benchmark}_{split.replace('-', '_')}"


def record_opening(path: Path, circumstances: Circumstances) -> list[dict[str, str]]:
    """Every time a sealed split was opened whose results are in `path`, this one included; written down at once."""
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"figures": {}}
    openings = known.setdefault("figures", {}).setdefault("openings", [])
    openings.append({"at": circumstances.started_at, "commit": circumstances.commit, "command": circumstances.command})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n")
    return openings


def save(
    name: str, circumstances: Circumstances, figures: Any, compared_with: str, target: Any = None, path: Any = None
) -> Path:
    """Write `results/<name>.json` (or `path`). figures: plain data. compared_with: the other side, in words."""
    target_path = Path(path) if path else RESULTS / f"{name}.json"
    target_path.parent.mkdir(parents=True, exist_ok=True)
    content = {"figures": figures, "compared_with": compared_with, "target": target, **asdict(circumstances)}
    target_path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return target_path


def print_table(header: list[str], rows: list[list[Any]]) -> None:
    """Columns as wide as they need to be; the first to the left, the others to the right."""
    cells = [header, *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    for row in cells:
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join([row[0].ljust(len(first)), *others]), flush=True)


def _commit() -> str:
    """With a remark when Python files differ from it: then the commit alone is not what was measured."""
    try:
        commit = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--", "*.py")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{commit} with uncommitted changes" if changed else commit


def _git(*arguments: str) -> str:
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
    here = Path(__file__).parent.parent
    done = subprocess.run(
        ["git", *arguments], cwd=here, env=environment, check=True, capture_output=True, text=True, timeout=10
    )
    return done.stdout.strip()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown CPU"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
