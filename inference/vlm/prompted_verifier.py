"""A VLM that is asked for scores by the papers' criteria: one JSON object an image (ReflectionFlow, appendix D.1)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import tyro

from inference.interfaces import ChatAnswer, ChatRequest, Vlm
from inference.prompt_grammar import parse_prompt
from inference.vlm.criteria import ANY_PROMPT, CRITERIA, OVERALL
from inference.vlm.endpoint import Journal
from inference.vlm.prompts import fill_prompt, load_prompt
from inference.vlm.vlm import VlmConfig
from schemas.configuration import template_field
from schemas.errors import InputError
from schemas.records import Cost

MAX_SCORE = 10
_TIE_BREAK = 0.01  # of the criteria's mean, so that it only parts images with the same overall score
_OVERALL = re.compile(rf'"{OVERALL}"\s*:\s*(?:\{{\s*"score"\s*:\s*)?(\d+(?:\.\d+)?)')


@dataclass(frozen=True)
class PromptedVerifierConfig:
    """Who is asked, and how."""

    vlm: Annotated[VlmConfig | None, tyro.conf.Suppress] = None
    """The run's VLM."""
    prompt: str = template_field("judge")
    """Template with {prompt} and {keys}, the criteria by name."""

    def open(self, journal: Journal | None = None) -> PromptedVerifier:
        """Load the VLM. MissingWeightsError, InputError."""
        return PromptedVerifier((self.vlm or VlmConfig()).open(journal), load_prompt(self.prompt))


class PromptedVerifier:
    """Log-odds of a score of 0 to 10, so that it may be averaged with other verifiers; ties of the overall score are
    parted by the criteria's mean. An answer without an overall score counts as 0 of 10."""

    def __init__(self, vlm: Vlm, template: str) -> None:
        self._vlm, self._template = vlm, template

    def score(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """float32 (n,), between -3.1 and 3.1."""
        return self.score_with_costs(images, prompts)[0]

    def score_with_costs(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> tuple[np.ndarray, list[Cost]]:
        """With the tokens that it read and wrote."""
        criteria = [criteria_of(prompt) for prompt in prompts]
        requests = [
            ChatRequest(
                fill_prompt(self._template, prompt=prompt, keys=", ".join([*names, OVERALL])),
                (image,),
                json_schema=answer_schema(names),
            )
            for image, prompt, names in zip(images, prompts, criteria, strict=True)
        ]
        answers = self._vlm.answer(requests)
        points = [read_points(answer, names) for answer, names in zip(answers, criteria, strict=True)]
        scores = np.array([math.log((p + 0.5) / (MAX_SCORE - p + 0.5)) for p in points], np.float32)
        return scores, [Cost(verifier_calls=1) + a.tokens for a in answers]


def criteria_of(prompt: str) -> tuple[str, ...]:
    """The criteria of the prompt's tag, where it has one of GenEval's forms."""
    try:
        return CRITERIA[parse_prompt(prompt).tag or ""]
    except (InputError, KeyError):
        return ANY_PROMPT


def read_points(answer: ChatAnswer, criteria: Sequence[str]) -> float:
    """0 to 10. An answer that was cut off after its overall score counts, too."""
    try:
        said = json.loads(answer.text)
        overall = _number(said[OVERALL])
    except (ValueError, TypeError, KeyError):
        found = _OVERALL.search(answer.text)
        return min(float(found[1]), MAX_SCORE) if found else 0.0
    known = [_number(said[name]) for name in criteria if name in said and _is_score(said[name])]
    finer = _TIE_BREAK * float(np.mean(known)) if known else 0.0
    return min(max(overall + finer, 0.0), float(MAX_SCORE))


def answer_schema(criteria: Sequence[str]) -> str:
    """JSON Schema of the answer."""
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
    properties = dict.fromkeys(names, one)
    return json.dumps({"type": "object", "properties": properties, "required": names, "additionalProperties": False})


def _is_score(value: Any) -> bool:
    return isinstance(value.get("score") if isinstance(value, dict) else value, (int, float))


def _number(value: Any) -> float:
    return float(value["score"] if isinstance(value, dict) else value)
