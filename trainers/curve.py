"""Where a training's figures go: `curve.jsonl`, TensorBoard, and Weights & Biases when its key is set."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

from schemas.atomic_file import write_whole
from schemas.images import decode_image

log = logging.getLogger(__name__)


class Curve:
    """`curve.jsonl`, and the same for TensorBoard and (with WANDB_API_KEY) Weights & Biases; pictures for these two."""

    def __init__(self, folder: Path, name: str = "training", step: int = 0) -> None:
        """name: of the trainer; with the folder it names the W&B run, which a restart goes on with. step: the last one
        that is kept of an earlier start; those after it come again."""
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "curve.jsonl"
        _drop_rows_after(step, self._path)
        self._tensorboard = _TensorBoard(folder / "tensorboard", step)
        self._wandb = _open_wandb(folder, name)

    def write(self, step: int, values: dict[str, float]) -> None:
        """A line, and a point of every curve."""
        with open(self._path, "a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        self._tensorboard.write(step, values)
        if self._wandb is not None:
            self._wandb.log(values, step=step)

    def write_picture(self, step: int, name: str, path: Path) -> None:
        """A picture that lies in a file already, for TensorBoard and Weights & Biases."""
        self._tensorboard.write_picture(step, name, decode_image(path.read_bytes()))
        if self._wandb is not None:
            import wandb  # pyright: ignore[reportMissingImports]

            self._wandb.log({name: wandb.Image(str(path))}, step=step)

    def close(self) -> None:
        """Write what is left."""
        self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()


class _TensorBoard:
    """A file of TensorBoard's events, written at once. (Its own writer has a thread, for which a training waits for
    ever when the disk is full.)"""

    def __init__(self, folder: Path, step: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog  # pyright: ignore[reportAttributeAccessIssue]

        folder.mkdir(parents=True, exist_ok=True)
        self._events: Any = EventsWriter(str(folder / "events"))
        self._write(step + 1, session_log=SessionLog(status=SessionLog.START))  # what earlier files say from here on
        self._events.flush()

    def write(self, step: int, values: dict[str, float]) -> None:
        from tensorboardX.summary import scalar

        for name, value in values.items():
            self._write(step, summary=scalar(name, value))
        self._events.flush()

    def write_picture(self, step: int, name: str, picture: Any) -> None:
        """uint8 (H, W, 3)"""
        from tensorboardX.summary import image

        self._write(step, summary=image(name, picture, dataformats="HWC"))
        self._events.flush()

    def _write(self, step: int, **what: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

        self._events.write_event(Event(step=step, wall_time=time.time(), **what))

    def close(self) -> None:
        self._events.close()


def _drop_rows_after(step: int, path: Path) -> None:
    """Of a curve's file, where there is one; a line that is none, such as a last one that a kill cut off, goes too."""
    if not path.exists():
        return
    kept = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + b"\n")
        except (ValueError, TypeError, KeyError, RecursionError):
            log.warning("%s:%d: no row of a curve, and left out", path, number)
    write_whole(path, b"".join(kept))


def _open_wandb(folder: Path, name: str) -> Any:
    """A W&B run, None without a key; a key without the package is said, and no reason to stop."""
    if not os.environ.get("WANDB_API_KEY"):
        return None
    if importlib.util.find_spec("wandb") is None:
        log.warning(
            "WANDB_API_KEY is set, but wandb is not installed: `pip install wandb`; the curve goes to files alone"
        )
        return None
    import wandb  # pyright: ignore[reportMissingImports]

    project = os.environ.get("WANDB_PROJECT", "reflectionflow")
    run_id = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:12]
    return wandb.init(project=project, name=f"{name} {folder.name}", id=run_id, resume="allow", dir=str(folder))
