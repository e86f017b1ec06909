"""A reward of one's own: any importable function that returns an object with `score(images, prompts)`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inference.interfaces import Reward
from schemas.errors import InputError

EXPECTED = "package.module:callable, which takes nothing and returns an object with score(images, prompts)"


@dataclass(frozen=True)
class OwnRewardConfig:
    """Where it is. Its code runs in the stage's own process, on every worker."""

    factory: str = ""
    """package.module:callable, importable where the run works (a folder on PYTHONPATH will do). It is called once, with
    nothing, and returns an object with score(images, prompts) (`inference.interfaces.Reward`)."""
    version: int = 1
    """Raise it when the code scores otherwise: a run cannot see that, and would go on with the scores it has."""

    def find(self) -> Callable[[], Any]:
        """What `factory` names. InputError."""
        module, colon, name = self.factory.partition(":")
        if not (module and colon and name):
            raise InputError(f"{self.factory!r} names no callable", field="own.factory", expected=EXPECTED)
        try:
            found: Any = importlib.import_module(module)
        except ModuleNotFoundError as error:
            where = "" if error.name == module else f": it imports {error.name}, which is not installed"
            raise InputError(f"no module {module!r} here{where}", field="own.factory", expected=EXPECTED) from error
        except Exception as error:  # whatever somebody's module raises
            raise InputError(
                f"{module!r} does not import: {type(error).__name__}: {error}", field="own.factory", expected=EXPECTED
            ) from error
        for part in name.split("."):
            found = getattr(found, part, None)
        if not callable(found):
            raise InputError(f"{module!r} has no callable {name!r}", field="own.factory", expected=EXPECTED)
        return found

    def open(self) -> OwnReward:
        """Call it. InputError for what is no reward; what the call itself raises goes on as it is."""
        made = self.find()()
        if not callable(getattr(made, "score", None)):
            raise InputError(
                f"{self.factory!r} returned a {type(made).__name__} without score",
                field="own.factory",
                expected=EXPECTED,
            )
        return OwnReward(made, self.factory)


class OwnReward:
    """Somebody's reward, whose scores are looked at before they are believed."""

    def __init__(self, reward: Reward, name: str) -> None:
        self._reward, self._name = reward, name

    def score(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """images uint8 (H, W, 3), one prompt each -> float32 (n,). InputError for scores that are no list of one
        number for each image; whether they are finite, whoever asked sees."""
        found: Any = self._reward.score(images, prompts)
        if hasattr(found, "detach"):  # a tensor, on whatever device
            found = found.detach().float().cpu()
        try:
            scores = np.asarray(found, np.float32)
        except (TypeError, ValueError) as error:
            raise self._bad(f"{type(found).__name__}: {error}", len(images)) from error
        if scores.shape != (len(images),):
            raise self._bad(f"the shape {scores.shape}", len(images))
        return scores

    def _bad(self, problem: str, number: int) -> InputError:
        return InputError(
            f"scores of {self._name!r}: {problem}", field="own.factory", expected=f"{number} numbers, one an image"
        )
