"""Who chooses among the images of a search: a VLM that is asked, a trained verifier, reward models, or the judge itself
as the bound that no verifier passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import tyro

from inference.interfaces import Reward, Verifier
from inference.judges.segmentation_judge import SegmentationJudgeConfig
from inference.rewards.presets import RewardsConfig
from inference.vlm.endpoint import Journal
from inference.vlm.verifier import VerifierConfig, open_verifier
from inference.vlm.vlm import VlmConfig
from schemas.errors import InputError

if TYPE_CHECKING:
    from inference.judges.segmentation_judge import SegmentationJudge

VerifierKind = Literal["vlm", "trained", "rewards", "judge"]


@dataclass(frozen=True)
class SearchVerifierConfig:
    """One verifier, or the mean of several; only what `kinds` names is loaded."""

    kinds: tuple[VerifierKind, ...] = ("vlm",)
    """vlm: log-odds of its yes; trained: the Bradley-Terry model; rewards: the mean of the CLIP rewards; judge: the
    benchmark's own judge, as a bound."""
    vlm: VerifierConfig | None = field(default_factory=VerifierConfig)
    trained: VerifierConfig | None = field(default_factory=lambda: VerifierConfig(model="micro/verifier"))
    rewards: RewardsConfig | None = field(default_factory=RewardsConfig)
    judge: Annotated[SegmentationJudgeConfig | None, tyro.conf.Suppress] = field(
        default_factory=SegmentationJudgeConfig
    )

    def __post_init__(self) -> None:
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise InputError(f"{self.kinds}", field="verifier.kinds", expected="one or more different verifiers")

    def only_what_is_used(self, vlm: VlmConfig) -> SearchVerifierConfig:
        """Without the configurations of others, on which the search does not depend; `vlm` is who is asked."""
        return SearchVerifierConfig(
            self.kinds,
            vlm=replace(self.vlm, vlm=vlm) if self.vlm and "vlm" in self.kinds else None,
            trained=replace(self.trained, vlm=vlm) if self.trained and "trained" in self.kinds else None,
            rewards=self.rewards if "rewards" in self.kinds else None,
            judge=self.judge if "judge" in self.kinds else None,
        )


class MeanVerifier:
    """The mean of several verifiers' scores (log-odds of about the same scale)."""

    def __init__(self, verifiers: Sequence[Reward]) -> None:
        self._verifiers = verifiers

    def score(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """float32 (n,)."""
        return np.stack([verifier.score(images, prompts) for verifier in self._verifiers]).mean(axis=0)


class JudgeVerifier:
    """The benchmark's judge as a verifier: 1 for a right image, else 0. Prompts in one of GenEval's forms."""

    def __init__(self, judge: SegmentationJudge) -> None:
        self._judge = judge

    def score(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """float32 (n,). InputError for a prompt in another form."""
        from inference.judges.geneval_scoring import judge_objects
        from inference.prompt_grammar import parse_prompt

        limits = self._judge.config.thresholds
        found = self._judge.find_objects(images)
        verdicts = [judge_objects(parse_prompt(p), o, limits).correct for p, o in zip(prompts, found, strict=True)]
        return np.array(verdicts, np.float32)


def open_search_verifier(config: SearchVerifierConfig, journal: Journal | None = None) -> Verifier:
    """Loads what `kinds` names. MissingWeightsError."""
    opened = [_open(config, kind, journal) for kind in config.kinds]
    return opened[0] if len(opened) == 1 else MeanVerifier(opened)


def _open(config: SearchVerifierConfig, kind: VerifierKind, journal: Journal | None) -> Verifier:
    chosen = getattr(config, kind)
    if chosen is None:
        raise InputError(f"verifier {kind!r} has no configuration", field=f"verifier.{kind}", expected="a model")
    if kind == "rewards":
        from inference.rewards.clip_reward import ClipReward

        return MeanVerifier([ClipReward(one) for one in chosen.chosen().values()])
    if kind == "judge":
        from inference.judges.segmentation_judge import SegmentationJudge

        return JudgeVerifier(SegmentationJudge(chosen))
    return open_verifier(chosen, journal)
