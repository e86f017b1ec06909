"""Fixed rows with real images, for tests that need known bytes."""

import numpy as np

from schemas.images import encode_png, sha256
from schemas.records import (
    Candidate,
    Check,
    Cost,
    DetectedObject,
    ObjectClause,
    Pair,
    PromptRecord,
    PromptRow,
    Reflection,
    Reward,
)


def image(seed: int, size: int = 8) -> np.ndarray:
    """(size, size, 3) uint8 noise."""
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def candidate(index: int, seed: int = 0) -> Candidate:
    png = encode_png(image(100 * seed + index))
    found = DetectedObject("square", 0.5, (1.0, 2.0, 3.0, 4.0), color="red", mask_png=b"not looked at")
    return Candidate(
        index=index,
        seed=seed,
        text="a red square",
        num_steps=4,
        width_px=8,
        height_px=8,
        image_sha256=sha256(png),
        image=png,
        check=Check(index % 2 == 0, 0.25 * index, reasons=("no square",), objects=(found,)),
        rewards=(Reward("clip", 0.1 * index),),
    )


def prompt_row(number: int) -> PromptRow:
    return PromptRow(
        PromptRecord(f"p{number}", "a red square", "rule", "colors", include=(ObjectClause("square", color="red"),)),
        candidates=(candidate(0, number), candidate(1, number)),
        pairs=(Pair(0, good=0, bad=1, paired_by="check_score", reflection=Reflection("Draw it red.", "rule")),),
        difficulty=0.5,
        difficulty_bin="medium",
        cost=Cost(generations=2),
    )
