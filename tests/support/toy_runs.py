"""Looking at toy runs from outside: by the files they leave."""

import json
import os
from pathlib import Path

from pipelines.driver import RunOptions, drive
from pipelines.runtime.failures import FailurePolicy
from schemas.storage import FREE, LocalStorage
from tests.support.toy_job import ToyConfig, create, open_run

QUICK = FailurePolicy(first_wait_s=0.0)


def run(path: Path, config: ToyConfig | None = None, **options) -> bool:
    """Start or go on with a run."""
    if not (path / "run.json").exists():
        create(str(path), config or ToyConfig())
    folder, config = open_run(str(path))
    return drive(folder, config, RunOptions(quiet=True, failures=QUICK, **options))


def run_on_ray(path: Path, **options) -> bool:
    """Start or go on with a run on Ray, with the patience of a real one."""
    if not (path / "run.json").exists():
        create(str(path), ToyConfig())
    folder, config = open_run(str(path))
    return drive(folder, config, RunOptions(runtime="ray", quiet=True, **options))


def shards(path: Path) -> dict[str, bytes]:
    """Everything under shards/, by name."""
    return {file.name: file.read_bytes() for file in sorted((path / "shards").iterdir())}


def blocks(path: Path, stage: str = "*") -> list[Path]:
    """Committed blocks, in the order of units."""
    return sorted(path.glob(f"stages/{stage}/*/*/*.parquet"), key=lambda p: (p.name, str(p)))


def stamps(path: Path, stage: str = "*") -> dict[Path, tuple[int, int]]:
    """Inode and time of every committed block: a block that was made again has others."""
    return {block: (block.stat().st_ino, block.stat().st_mtime_ns) for block in blocks(path, stage)}


def calls(path: str | os.PathLike) -> list[list[str]]:
    """[stage, prompt id, ...] of every call, from the file that TOY_CALLS named."""
    file = Path(path)
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def flip(file: Path, at: float = 0.5) -> None:
    """Flip a bit of a file in place, at a share of its length."""
    data = bytearray(file.read_bytes())
    data[int(at * len(data))] ^= 4
    file.write_bytes(bytes(data))


def edit_json(file: Path, **changes) -> None:
    """Change fields of a JSON file in place."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def is_free(run: Path) -> bool:
    """True when nobody has the run's lease, or did not give it back."""
    version, record = LocalStorage(run).lease()
    return version is None or record == FREE
