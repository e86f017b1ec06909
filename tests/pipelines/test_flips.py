"""Two hundred flipped bits over every file of a finished run: what changes anything that is read is noticed."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipelines.conservation import verify
from pipelines.jobs import resolve_chains
from pipelines.pack_shards import PackShardsConfig, shard_ranges
from pipelines.stages.select_pairs import SelectPairsConfig
from schemas.errors import ReflectionFlowError
from schemas.shards import decode_shard
from tests.support.toy_job import DrawConfig, ToyConfig, open_run
from tests.support.toy_runs import run

FLIPS = 200
CONFIG = ToyConfig(
    num_prompts=8,
    draw=DrawConfig(candidates_per_prompt=3),
    select=SelectPairsConfig(difficulty="quantiles", keep_bins=("easy", "medium", "hard")),
    pack=PackShardsConfig(units_per_shard=1, image_format="png"),
)


def kind_of(path: Path, run_folder: Path) -> str:
    parts = path.relative_to(run_folder).parts
    return parts[0] if len(parts) == 1 else f"{parts[0]}/*{path.suffix}"


def everything_read(path: Path) -> Any:
    """All that any command takes from a run."""
    folder, config = open_run(str(path))
    chains = resolve_chains(folder, config)
    blocks = []
    for steps in chains.values():
        for step in steps:
            for unit in folder.units():
                footer, rows = folder.read_block(step.name, step.key, unit)
                held = folder.with_images(rows, step.name, step.key, unit) if step.link.stage.makes_images else rows
                blocks.append((footer, held))
    samples = []
    for index in range(len(shard_ranges(folder, config.pack))):
        sidecar = folder.sidecar(index)
        assert sidecar is not None
        samples.append(decode_shard(folder.storage.read(f"shards/{sidecar.name}"), "") if sidecar.num_samples else [])
    return (
        folder.info,
        list(folder.all_prompts()),
        [step.barrier_value for steps in chains.values() for step in steps],
        blocks,
        samples,
        folder.quarantined(),
        list(folder.statistics()),
    )


def notices(path: Path) -> bool:
    """Whether `verify --deep` says anything."""
    try:
        return bool(verify(*open_run(str(path)), deep=True))
    except ReflectionFlowError:
        return True


@pytest.mark.slow
def test_every_flip_that_changes_what_is_read_is_noticed(tmp_path, monkeypatch):
    path = tmp_path / "run"
    monkeypatch.setenv("TOY_FAIL_CHECK", "p003")
    assert run(path, CONFIG)
    assert not notices(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    before = everything_read(path)
    rng = random.Random(25)
    seen: Counter[tuple[str, str]] = Counter()
    for _ in range(FLIPS):
        file = rng.choice(files)
        whole = file.read_bytes()
        data = bytearray(whole)
        at, bit = rng.randrange(len(data)), rng.randrange(8)
        data[at] ^= 1 << bit
        file.write_bytes(data)
        noticed = notices(path)
        if not noticed:
            assert everything_read(path) == before, f"{file}: byte {at}, bit {bit}"
        seen[kind_of(file, path), "noticed" if noticed else "changes nothing"] += 1
        file.write_bytes(whole)
    assert not notices(path)
    for (kind, outcome), count in sorted(seen.items()):
        print(f"{kind:<24} {outcome:<16} {count}")
    kinds = {kind for kind, _ in seen}
    assert kinds >= {"run.json", "prompts.parquet", "barriers/*.json", "quarantine/*.json", "stats/*.json"}
    assert kinds >= {"stages/*.parquet", "shards/*.tar", "shards/*.json"}
