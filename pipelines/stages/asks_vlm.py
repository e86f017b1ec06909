"""What the stages that ask a VLM share: how it is opened, how its answers are kept, and what they cost."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

from inference.interfaces import ChatRequest, Vlm
from inference.vlm.vlm import VlmConfig
from pipelines.served_vlms import asked_vlms
from pipelines.stage import Stage
from schemas.records import Cost

T = TypeVar("T")


class AsksVlm(Stage):
    """Base of those stages; `config.vlm` says which."""

    @classmethod
    def is_client(cls, config: Any) -> bool:
        return all(vlm.is_elsewhere for vlm in asked_vlms(config))

    def load(self) -> None:
        self.vlm: Vlm = (self.config.vlm or VlmConfig()).open(self.journal)


class Asked(Generic[T]):
    """What came of a question: the answer as `read` understood it, or None, and what all tries cost."""

    def __init__(self) -> None:
        self.value: T | None = None
        self.last_text = ""
        self.cost = Cost()


def ask_until_read(
    vlm: Vlm, requests: Sequence[ChatRequest], read: Callable[[int, str], T | None], max_attempts: int
) -> list[Asked[T]]:
    """Ask all; those whose answer `read` (index, text) cannot use are asked again, sampled, up to `max_attempts` times
    in all. An answer that was cut off is not read."""
    asked: list[Asked[T]] = [Asked() for _ in requests]
    left = list(range(len(requests)))
    for attempt in range(max_attempts):
        answers = vlm.answer([replace(requests[i], attempt=attempt) for i in left])
        for i, answer in zip(left, answers, strict=True):
            asked[i].cost += Cost(vlm_calls=1) + answer.tokens
            asked[i].last_text = answer.text
            asked[i].value = read(i, answer.text) if answer.finished else None
        left = [i for i in left if asked[i].value is None]
        if not left:
            break
    return asked
