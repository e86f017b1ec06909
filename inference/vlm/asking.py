"""Ask until an answer can be used."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Generic, TypeVar

from inference.interfaces import ChatRequest, Vlm
from schemas.records import Cost

T = TypeVar("T")


class Asked(Generic[T]):
    """What came of a question: the answer as `read` understood it, or None, and what all tries cost."""

    def __init__(self) -> None:
        self.value: T | None = None
        self.last_text = ""
        self.was_cut_off = False
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
            asked[i].last_text, asked[i].was_cut_off = answer.text, not answer.finished
            asked[i].value = read(i, answer.text) if answer.finished else None
        left = [i for i in left if asked[i].value is None]
        if not left:
            break
    return asked
