"""What the micro world hands to the intake of runs: prompts, edits, its benchmarks, and what it keeps for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from microworld.scenes.captions import caption_of_record, is_reserved
from microworld.scenes.compositions import is_reserved_composition
from microworld.scenes.edit_file import sample_edit_row
from microworld.scenes.evaluation_split import SPLITS
from microworld.scenes.known_words import KNOWS, as_learnt, why_not_known, why_not_understood
from microworld.scenes.long_captions import sample_long_caption
from microworld.scenes.world import SHAPES
from schemas.records import PromptRecord


class MicroWorld:
    """See `pipelines.prompts.worlds.World`."""

    name = "micro"
    knows = KNOWS
    benchmarks: Mapping[str, Callable[[], tuple[PromptRecord, ...]]] = SPLITS

    def why_not_known(self, text: str) -> str | None:
        """Why its models cannot draw a text."""
        return why_not_known(text)

    def why_not_understood(self, text: str) -> str | None:
        """Why its VLM cannot say what a text means."""
        return why_not_understood(text)

    def as_learnt(self, text: str) -> str:
        """A text in the words that its models learnt from."""
        return as_learnt(text)

    def long_prompt(self, rng: np.random.Generator) -> str:
        """A long caption of a random scene."""
        return sample_long_caption(rng)[0]

    def edit_row(self, seed: int, number: int) -> dict[str, Any]:
        """An editing triplet in OmniEdit's columns."""
        return sample_edit_row(seed, number)

    def is_reserved(self, record: PromptRecord) -> bool:
        """True for compositions of its shapes that are kept for its own benchmarks (and out of training)."""
        if not record.include or not all(clause.class_name in SHAPES for clause in record.include):
            return False
        return is_reserved_composition(record) if record.tag is None else is_reserved(caption_of_record(record))
