"""Checkpoints that a kill at any moment leaves whole: the last few, and the best."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
from pathlib import Path
from typing import Any

from schemas.atomic_file import replacing, write_whole

log = logging.getLogger(__name__)

REST = "rest.pt"
"""In the folder of a state in shards: all that is not in shards."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain values) so that a kill leaves either the old file or the new one."""
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    # A file, not its name, which torch would write into it.
    with replacing(path) as temporary, open(temporary, "wb") as file:
        torch.save(state, file)


def load_checkpoint(path: Path, device: str = "cpu") -> dict[str, Any] | None:
    """What `save_checkpoint` wrote, or None where there is no file."""
    import torch

    return torch.load(path, map_location=device, weights_only=True) if path.exists() else None


class Checkpoints:
    """`step_00000120.pt` files in a folder (or folders `step_00000120`, see `trainers.sharded`): the last `keep_last`,
    and the one with the best score so far."""

    def __init__(self, folder: Path, keep_last: int = 2) -> None:
        self._folder, self._keep_last = folder, max(1, keep_last)

    def save(self, step: int, state: dict[str, Any], score: float | None = None) -> None:
        """Keep a state; with a score (more is better) it may become the best one."""
        save_checkpoint(self._folder / _name(step), state)
        self._keep(step, score)

    def _keep(self, step: int, score: float | None) -> None:
        """What stays, now that there is a state of this step."""
        best = self.best()
        if score is not None and (best is None or score > best[1]):
            _write_json(self._folder / "best.json", {"step": step, "score": score})
            best = (step, score)
        kept = {*self.steps()[-self._keep_last :], *([best[0]] if best else [])}
        for old in set(self.steps()) - kept:
            (self._folder / _name(old)).unlink(missing_ok=True)
            shutil.rmtree(self._folder / folder_name(old), ignore_errors=True)

    def steps(self) -> list[int]:
        """Steps of which there is a state, first to last."""
        return sorted(
            {int(p.stem.removeprefix("step_")) for p in self._folder.glob("step_*") if p.suffix in ("", ".pt")}
        )

    def best(self) -> tuple[int, float] | None:
        """Step and score of the best one that is still there."""
        try:
            value = json.loads((self._folder / "best.json").read_text())
        except (FileNotFoundError, ValueError):
            return None
        return (value["step"], value["score"]) if value["step"] in self.steps() else None

    def at(self, step: int, device: str = "cpu") -> dict[str, Any] | None:
        """The state of one step, None where it is not there. Of one in shards, what is not in shards: its settings tell
        that it is of another training."""
        folder = self._folder / folder_name(step)
        return load_checkpoint(folder / REST if folder.is_dir() else self._folder / _name(step), device)

    def latest(self, device: str = "cpu") -> dict[str, Any] | None:
        """The newest state that reads; a broken one is named and passed over. None without any."""
        for step in reversed(self.steps()):
            try:
                return self.at(step, device)
            except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
                log.warning("%s does not read (%s); an older one is taken", self._folder / _name(step), error)
        return None


def folder_name(step: int) -> str:
    """Of a state in shards."""
    return f"step_{step:08d}"


def _name(step: int) -> str:
    return f"{folder_name(step)}.pt"


def _write_json(path: Path, value: dict[str, Any]) -> None:
    write_whole(path, json.dumps(value))
