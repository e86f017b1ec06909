"""Who says whether an image fits a description: any VLM that is asked, or a CLIP that compares two of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from inference.interfaces import ChatRequest, Reward, Vlm
from inference.judges.commonsense_t2i import Fits
from inference.judges.questions_judge import JUDGE_VLM
from inference.rewards.clip_reward import ClipRewardConfig
from inference.vlm.endpoint import Journal
from inference.vlm.prompts import fill_prompt, load_prompt
from inference.vlm.vlm import VlmConfig
from schemas.configuration import chosen_kind, template_field, without_other_kinds

FITS = "fits_description"
"""Template: CommonsenseT2I's question, in our words."""
_ANSWER = re.compile(r"[\W_]*(1|yes|true|0|no|false)\b", re.IGNORECASE)
_MAX_SAID = 100


@dataclass(frozen=True)
class Verdict:
    """On one image. said: what a VLM answered to each of the two, in short."""

    fits: Fits
    said: tuple[str, str] = ("", "")


class DescriptionJudge(Protocol):
    """What looks at the images. Never used inside a search or a training."""

    def judge(self, images: Sequence[np.ndarray], descriptions: Sequence[tuple[str, str]]) -> list[Verdict]:
        """A verdict on each image, uint8 (H, W, 3), by its pair's two descriptions."""
        ...


@dataclass(frozen=True)
class DescriptionJudgeConfig:
    """Which judge. Only `kind` is loaded; verdicts of different ones cannot be compared."""

    kind: Literal["vlm", "clip"] = "vlm"
    """vlm: any VLM is asked about each description by itself, as CommonsenseT2I asks GPT-4o; clip: of the two, the one
    that a CLIP finds more alike, the benchmark's other judge."""
    vlm: VlmConfig | None = field(default_factory=lambda: VlmConfig(model=JUDGE_VLM))
    clip: ClipRewardConfig | None = field(default_factory=lambda: ClipRewardConfig(batch_size=32, device="cuda"))
    prompt: str = template_field(FITS)
    """What a VLM is asked: a name in inference/prompts, or a file, with {description}. Its answer begins with 1 or Yes,
    or with 0 or No."""

    @property
    def label(self) -> str:
        """Whose verdicts these are."""
        chosen = chosen_kind(self)
        return chosen.name if isinstance(chosen, VlmConfig) else chosen.model

    def only_what_is_used(self) -> DescriptionJudgeConfig:
        """Without the other kind. InputError for a template without {description}."""
        if self.kind == "vlm":
            fill_prompt(load_prompt(self.prompt), description="")
        return without_other_kinds(self)

    def open(self, journal: Journal | None = None) -> DescriptionJudge:
        """Load, start or reach it. journal: for answers of a VLM elsewhere. MissingWeightsError, InputError."""
        chosen = chosen_kind(self)
        if isinstance(chosen, VlmConfig):
            return VlmDescriptionJudge(chosen.open(journal), self.prompt)
        return ClipDescriptionJudge(chosen.open())


class VlmDescriptionJudge:
    """A VLM that is asked about each description by itself. See `DescriptionJudge`."""

    def __init__(self, vlm: Vlm, prompt: str = FITS) -> None:
        self._vlm, self._words = vlm, load_prompt(prompt)

    def judge(self, images: Sequence[np.ndarray], descriptions: Sequence[tuple[str, str]]) -> list[Verdict]:
        """An answer that is neither yes nor no is None: it speaks for nothing."""
        requests = [
            ChatRequest(fill_prompt(self._words, description=text), (image,))
            for image, both in zip(images, descriptions, strict=True)
            for text in both
        ]
        said = [answer.text for answer in self._vlm.answer(requests)]
        short = [" ".join(text.split())[:_MAX_SAID] for text in said]
        return [
            Verdict((read_answer(said[i]), read_answer(said[i + 1])), (short[i], short[i + 1]))
            for i in range(0, len(said), 2)
        ]


class ClipDescriptionJudge:
    """The description that a CLIP finds more alike. See `DescriptionJudge`."""

    def __init__(self, reward: Reward) -> None:
        """reward: such as `inference.rewards.clip_reward.ClipReward`."""
        self._reward = reward

    def judge(self, images: Sequence[np.ndarray], descriptions: Sequence[tuple[str, str]]) -> list[Verdict]:
        """Two that are just as alike fit neither, as published."""
        first, second = (self._reward.score(images, [both[side] for both in descriptions]) for side in (0, 1))
        return [Verdict((bool(a > b), bool(b > a))) for a, b in zip(first, second, strict=True)]


def read_answer(text: str) -> bool | None:
    """What an answer begins with, reasoning and decoration aside: 1 or Yes, 0 or No; None for anything else."""
    from inference.vlm.reasoning import answer_of

    found = _ANSWER.match(answer_of(text) or "")
    return None if found is None else found[1].lower() in ("1", "yes", "true")
