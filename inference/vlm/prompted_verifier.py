"""A VLM that is asked for scores by the papers' criteria, with a reason for each (ReflectionFlow, appendix D.1).

The images of one prompt are shown together, as far as one request may hold them; each gets scores of its own.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from inference.interfaces import ChatAnswer, ChatRequest, Opinion, Vlm
from inference.prompt_grammar import record_of, tag_of
from inference.vlm.clean_text import json_of
from inference.vlm.criteria import ANY_RUBRIC, OVERALL, RUBRICS
from inference.vlm.endpoint import Journal
from inference.vlm.prompts import fill_known, load_prompt
from inference.vlm.vlm import VlmConfig
from schemas.absent import score_of
from schemas.configuration import template_field
from schemas.errors import InputError
from schemas.plain_text import readable
from schemas.records import Cost, PromptRecord

MAX_SCORE = 10
_TIE_BREAK = 0.01  # of the criteria's mean, so that it only parts images with the same overall score
_OVERALL = re.compile(rf'"{OVERALL}"\s*:\s*(?:\{{\s*"score"\s*:\s*)?(\d+(?:\.\d+)?)')
_LIST = "images"
_SEVERAL = (
    "You see {number} images, all drawn from this request. Judge each by itself, as if the others were not there. "
    'Answer with one JSON object whose only key is "{key}": a list of {number} objects as described, in the order of '
    "the images."
)


@dataclass(frozen=True)
class PromptedVerifierConfig:
    """Who is asked, and how."""

    vlm: VlmConfig | None = None
    """The run's VLM."""
    prompt: str = template_field("judge")
    """Template with {prompt}; and with {keys}, the criteria by name, or {rubric}, a line for each that says what it
    asks."""
    images_per_request: int = 2
    """Images of one prompt that are shown together (the paper: all of them); 1: each alone. At most the VLM's
    `max_images`; a divisor of a search's width, or searches of the same prompt share a request."""

    @property
    def is_client(self) -> bool:
        """Whether all its work is to ask a VLM elsewhere."""
        return self.vlm is not None and self.vlm.is_elsewhere

    def open(self, journal: Journal | None = None) -> PromptedVerifier:
        """Load the VLM. MissingWeightsError, InputError."""
        vlm = self.vlm or VlmConfig()
        if not 1 <= self.images_per_request <= vlm.max_images:
            raise InputError(
                f"{self.images_per_request} images a request",
                field="verifier.prompted.images_per_request",
                expected=f"1 to {vlm.max_images}, or a larger --vlm.max-images",
            )
        return PromptedVerifier(vlm.open(journal), load_prompt(self.prompt), self.images_per_request)


class PromptedVerifier:
    """Log-odds of a score of 0 to 10, so that it may be averaged with other verifiers; ties of the overall score are
    parted by the criteria's mean. An answer without an overall score counts as 0 of 10.

    An answer that has not as many scores as it was shown images is none: then each of these is asked about alone.
    """

    def __init__(self, vlm: Vlm, template: str, images_per_request: int = 1) -> None:
        self._vlm, self._template, self._together = vlm, template, images_per_request

    def score(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """float32 (n,), between -3.1 and 3.1."""
        return np.array([opinion.score for opinion in self.verify(images, prompts)], np.float32)

    def verify(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> list[Opinion]:
        """As `verify_records`, of prompts by their words alone."""
        return self.verify_records(images, [record_of(prompt) for prompt in prompts])

    def verify_records(self, images: Sequence[np.ndarray], prompts: Sequence[PromptRecord]) -> list[Opinion]:
        """With its reasons, and the tokens that it read and wrote: those of a common request count for the first of its
        images."""
        found: list[tuple[float, str]] = [(0.0, "")] * len(images)
        costs = [Cost()] * len(images)
        left = asked_together(images, [prompt.text for prompt in prompts], self._together)
        while left:
            answers = self._vlm.answer([self._request([images[i] for i in g], prompts[g[0]]) for g in left])
            unread: list[list[int]] = []
            for group, answer in zip(left, answers, strict=True):
                first = min(group)
                costs[first] += Cost(verifier_calls=1) + answer.tokens
                judged = read_judgements(answer, criteria_of(prompts[first]), len(group))
                if judged is None:
                    unread += [[i] for i in sorted(group)]
                    continue
                for i, one in zip(group, judged, strict=True):
                    found[i] = one
            left = unread
        return [
            Opinion(_log_odds(points), cost, explanation)
            for (points, explanation), cost in zip(found, costs, strict=True)
        ]

    def _request(self, images: Sequence[np.ndarray], prompt: PromptRecord) -> ChatRequest:
        rubric = rubric_of(prompt)
        lines = "\n".join(f"- {name}: {asked}" for name, asked in rubric.items())
        text = fill_known(self._template, prompt=prompt.text, keys=", ".join([*rubric, OVERALL]), rubric=lines)
        if len(images) > 1:
            text += "\n\n" + _SEVERAL.format(number=len(images), key=_LIST)
        return ChatRequest(text, tuple(images), json_schema=answer_schema(tuple(rubric), len(images)))


def asked_together(images: Sequence[np.ndarray], prompts: Sequence[str], at_most: int) -> list[list[int]]:
    """Indices of the images of each request: neighbours of one prompt, in the order of their contents' hashes, so that
    no image's place tells where it comes from (of a pair, the good one always comes first)."""
    groups = []
    for _, members in groupby(range(len(prompts)), key=lambda i: prompts[i]):
        same = list(members)
        groups += [same[start : start + at_most] for start in range(0, len(same), at_most)]
    return [g if len(g) == 1 else sorted(g, key=lambda i: hashlib.sha256(images[i].tobytes()).digest()) for g in groups]


def rubric_of(prompt: PromptRecord) -> Mapping[str, str]:
    """Criteria of the prompt's tag and what each asks: its own, or what its words tell where they have one of GenEval's
    forms."""
    return RUBRICS.get(tag_of(prompt) or "", ANY_RUBRIC)


def criteria_of(prompt: PromptRecord) -> tuple[str, ...]:
    """The same criteria, by name."""
    return tuple(rubric_of(prompt))


def read_judgements(answer: ChatAnswer, criteria: Sequence[str], number: int) -> list[tuple[float, str]] | None:
    """Points and reasons for each of `number` images; None where several were shown and the answer is not as long."""
    if number == 1:
        return [(read_points(answer, criteria), read_reasons(answer, criteria))]
    try:
        said = json_of(answer.text)
        said = said[_LIST] if isinstance(said, dict) else said
        if len(said) != number:
            return None
        return [(_points(one, criteria), _reasons(one, criteria)) for one in said]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def read_points(answer: ChatAnswer, criteria: Sequence[str]) -> float:
    """0 to 10. An answer that was cut off after its overall score counts, too."""
    try:
        return _points(json_of(answer.text), criteria)
    except (ValueError, TypeError, KeyError, RecursionError):
        from inference.vlm.reasoning import answer_of

        found = _OVERALL.search(answer_of(answer.text) or "")
        return min(float(found[1]), MAX_SCORE) if found else 0.0


def read_reasons(answer: ChatAnswer, criteria: Sequence[str]) -> str:
    """One line: each criterion with its score and why; empty where the answer does not read."""
    try:
        return _reasons(json_of(answer.text), criteria)
    except (ValueError, TypeError, RecursionError):
        return ""


def answer_schema(criteria: Sequence[str], number: int = 1) -> str:
    """JSON Schema of the answer about one image, or of a list of `number` of them."""
    one = {
        "type": "object",
        "properties": {
            "score": {"type": "integer", "minimum": 0, "maximum": MAX_SCORE},
            "explanation": {"type": "string"},
        },
        "required": ["score", "explanation"],
        "additionalProperties": False,
    }
    names = [*criteria, OVERALL]
    judged = _closed(dict.fromkeys(names, one))
    if number == 1:
        return json.dumps(judged)
    several = {"type": "array", "items": judged, "minItems": number, "maxItems": number}
    return json.dumps(_closed({_LIST: several}))


def _closed(properties: dict[str, Any]) -> dict[str, Any]:
    """An object with exactly these keys."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _points(said: Any, criteria: Sequence[str]) -> float:
    """ValueError, TypeError or KeyError without an overall score."""
    overall = _number(said[OVERALL])
    known = [_number(said[name]) for name in criteria if name in said and _is_score(said[name])]
    finer = _TIE_BREAK * float(np.mean(known)) if known else 0.0
    return min(max(overall + finer, 0.0), float(MAX_SCORE))


def _reasons(said: Any, criteria: Sequence[str]) -> str:
    given = said if isinstance(said, dict) else {}
    parts = []
    for name in (*criteria, OVERALL):
        told = given.get(name)
        why = told.get("explanation") if isinstance(told, dict) else None
        if isinstance(why, str) and readable(why).strip() and _is_score(told):
            parts.append(f"{name.replace('_', ' ')} {_number(told):g} of {MAX_SCORE}: {_sentence(why)}")
    return " ".join(parts)


def _sentence(text: str) -> str:
    text = " ".join(readable(text).split())
    return text if text[-1] in ".!?" else f"{text}."


def _log_odds(points: float) -> float:
    return float(np.float32(math.log((points + 0.5) / (MAX_SCORE - points + 0.5))))


def _is_score(value: Any) -> bool:
    score = value.get("score") if isinstance(value, dict) else value
    return isinstance(score, (int, float)) and abs(score) < 1e9


def _number(value: Any) -> float:
    score = score_of(value["score"] if isinstance(value, dict) else value)
    if score is None:
        raise ValueError("no score")
    return score
