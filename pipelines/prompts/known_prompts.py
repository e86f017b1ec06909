"""Prompts that the chosen models can draw, told before one of them is loaded: a world's models know its words alone,
and of anything else they make noise."""

from __future__ import annotations

from collections.abc import Iterable

from inference.model_store import SHIPPED
from pipelines.prompts.worlds import OTHER_WORDS, World, world_of
from schemas.errors import InputError

OTHER_VLM = "for other words: --vlm.model, or --vlm.endpoint-model and --vlm.base-url"


def world_of_models(models: Iterable[str]) -> World | None:
    """The world of the first of these models that has one, by their names ("micro/flux"); None where none has."""
    found = [name.partition("/")[0] for name in models]
    return next((world_of(name) for name in found if name in SHIPPED), None)


def require_known(text: str, models: Iterable[str], file: str | None = None, line: int | None = None) -> str:
    """The prompt in the words that these models learnt from. InputError for one that they cannot know."""
    world = world_of_models(models)
    why = world.why_not_known(text) if world else None
    if world and why:
        raise InputError(
            f"the {world.name} models {why}",
            file=file,
            line=line,
            field="prompt",
            expected=f"{world.knows}; {OTHER_WORDS}",
        )
    return world.as_learnt(text) if world else text


def require_understood(text: str, models: Iterable[str]) -> None:
    """InputError for a prompt of which the VLM among these models cannot say what it means."""
    world = world_of_models(models)
    why = world.why_not_understood(text) if world else None
    if world and why:
        raise InputError(f"the {world.name} models {why}", field="prompt", expected=f"such a word; {OTHER_VLM}")
