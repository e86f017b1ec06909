"""Rendered worlds that make prompts and edits of their own: the one door through which the pipelines know of one."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from inference.model_store import SHIPPED
from schemas.errors import InputError
from schemas.records import PromptRecord

_PLACE = re.compile(r"(?P<world>\w+)-world:(?P<seed>\d+)")  # in place of a file, of triplets that a world makes

OTHER_WORDS = "for other words: --preset flux"


class World(Protocol):
    """A world whose vocabulary has its name."""

    name: str
    knows: str
    """What its models can be asked for, for people."""
    benchmarks: Mapping[str, Callable[[], tuple[PromptRecord, ...]]]
    """Evaluation prompts by name ("micro-dev"); nothing that is searched among them may train anything."""

    def why_not_known(self, text: str) -> str | None:
        """Why its models cannot draw a text, to be read behind "these models"; None where they can."""
        ...

    def why_not_understood(self, text: str) -> str | None:
        """Why its VLM cannot say what a text means, to be read behind "these models"; None where it can."""
        ...

    def as_learnt(self, text: str) -> str:
        """A text in the words that its models learnt from, where these say the same."""
        ...

    def long_prompt(self, rng: np.random.Generator) -> str:
        """A detailed prompt."""
        ...

    def edit_row(self, seed: int, number: int) -> dict[str, Any]:
        """An editing triplet in OmniEdit's columns; it depends on seed and number alone."""
        ...

    def is_reserved(self, record: PromptRecord) -> bool:
        """Whether a composition is kept for the world's benchmarks."""
        ...


def world_of(vocabulary: str) -> World | None:
    """The world whose vocabulary this is; None for any other vocabulary. InputError where it is not installed."""
    if vocabulary not in SHIPPED:
        return None
    try:
        from microworld.prompt_source import MicroWorld
    except ModuleNotFoundError as error:
        raise InputError(
            f"the world {vocabulary!r} is not installed ({error.name})", field="vocabulary", expected="a full clone"
        ) from error
    return MicroWorld()


def place_of_edits(world: World, seed: int) -> str:
    """What stands for a file in triplets that a world makes."""
    return f"{world.name}-world:{seed}"


def edits_at(place: str) -> Callable[[int], dict[str, Any]] | None:
    """What makes the triplet of a number at such a place again; None for a file."""
    found = _PLACE.fullmatch(place)
    world = world_of(found["world"]) if found else None
    return functools.partial(world.edit_row, int(found["seed"])) if world and found else None


def benchmark_prompts(name: str) -> Callable[[], tuple[PromptRecord, ...]] | None:
    """What makes the prompts of a world's benchmark; None where no world has one of this name."""
    world = world_of(name.partition("-")[0])
    return world.benchmarks.get(name) if world else None


def benchmark_names() -> list[str]:
    """Of every world that is installed."""
    names: list[str] = []
    for vocabulary in SHIPPED:
        try:
            world = world_of(vocabulary)
        except InputError:
            continue
        names += world.benchmarks if world else ()
    return names
