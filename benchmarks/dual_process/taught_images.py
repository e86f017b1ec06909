"""What a generator draws before and after it was taught a concept, of the concept's own prompt and of others.

Made once and kept in files: whoever measures the images may do so again without training again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.dual_process.dual_process_tasks import read_result, write_result
from inference.dual.concept import Concept
from schemas.atomic_file import replacing
from schemas.configuration import content_key
from trainers.distilled import Evaluated
from trainers.dual_process import DualProcess, NotConvergedError

RESULT, IMAGES = "result.json", "images.npz"


@dataclass(frozen=True, eq=False)
class Drawn:
    """One prompt on the seeds that were not trained on.

    before, after: uint8 (n, H, W, 3), the same seeds; vlm_before, vlm_after: (n,), how probable the VLM finds the
    wanted answers about each, mean over the questions.
    """

    prompt: str
    before: np.ndarray
    after: np.ndarray
    vlm_before: np.ndarray
    vlm_after: np.ndarray


@dataclass(frozen=True, eq=False)
class Taught:
    """A concept after its training. drawn: its own prompt, then the others. seconds: of training. fooled: why the
    referee ended it, empty where it did not; what is drawn is then of the LoRA of which it did not doubt."""

    drawn: tuple[Drawn, ...]
    steps: int
    seconds: float
    fooled: str = ""


def taught_images(models: DualProcess, concept: Concept, out: Path, others: Sequence[Concept] = ()) -> Taught:
    """Learn `concept` and draw it and the `others` before and after; read where that was done by the same models and
    settings. Killed, the next call goes on from the last checkpoint."""
    key = content_key(models.key_of(concept), [[other.prompt, other.digest] for other in others])
    folder = out / f"{concept.name}-{key[:8]}"  # other weights or settings get a folder of their own
    kept: dict[str, Any] | None = read_result(folder / RESULT, key)
    if kept is None:
        before = _evaluated(models, others)
        after: list[Evaluated] = []
        try:
            distilled = models.distill(concept, folder, while_taught=lambda: after.extend(_evaluated(models, others)))
        except NotConvergedError as error:  # whatever comes of it is a result
            distilled = error.distilled
        both = {"before": [distilled.before, *before], "after": [distilled.after, *after]}
        _write_images(folder / IMAGES, both["before"], both["after"])
        kept = {"steps": len(distilled.curve), "seconds": distilled.seconds}
        kept["fooled"] = distilled.fooled.why if distilled.fooled else ""
        for name, seen in both.items():
            kept[f"vlm_{name}"] = [one.probabilities.mean(1).round(5).tolist() for one in seen]
        write_result(folder / RESULT, key, kept)
    with np.load(folder / IMAGES) as images:
        rows = zip(images["before"], images["after"], kept["vlm_before"], kept["vlm_after"], strict=True)
    drawn = [
        Drawn(one.prompt, before, after, np.array(vlm_before), np.array(vlm_after))
        for one, (before, after, vlm_before, vlm_after) in zip([concept, *others], rows, strict=True)
    ]
    return Taught(tuple(drawn), int(kept["steps"]), float(kept["seconds"]), str(kept["fooled"]))


def _evaluated(models: DualProcess, concepts: Sequence[Concept]) -> list[Evaluated]:
    """By the generator as it is now."""
    return [models.evaluate(one, models.denoiser.encode(one.prompt)) for one in concepts]


def _write_images(path: Path, before: Sequence[Evaluated], after: Sequence[Evaluated]) -> None:
    images = [np.stack([one.images for one in seen]) for seen in (before, after)]
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, before=images[0], after=images[1])
