"""Which verifiers choose among images: a VLM that is asked, a trained one, rules, rewards, or the judge itself as the
bound that no verifier passes. A new kind is a file with its configuration and class, and a field here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, get_args

import numpy as np
import tyro

from inference.grounding.grounded_sam import GroundedSam, GroundedSamConfig
from inference.interfaces import OneCallAnImage, Reward, Verifier, score_prompts
from inference.judges.judge import Judge, JudgeConfig, judge_images
from inference.prompt_grammar import record_of, with_requirements
from inference.rewards.reward import RewardConfig, used_rewards, without_weights
from inference.vlm.endpoint import Journal
from inference.vlm.prompted_verifier import PromptedVerifierConfig
from inference.vlm.trained_verifier import TrainedVerifierConfig
from inference.vlm.vlm import VlmConfig
from inference.vlm.yes_no_verifier import YesNoVerifierConfig
from schemas.errors import InputError
from schemas.records import Cost, PromptRecord

VerifierKind = Literal["vlm", "prompted", "trained", "rules", "rewards", "judge"]
RULES_SCALE = 20.0  # makes of a check's score about what the other verifiers' log-odds are; from 10 to 40 it is all one


@dataclass(frozen=True)
class VerifierConfig:
    """One verifier, or the mean of several; only what `kinds` names is loaded."""

    kinds: tuple[VerifierKind, ...] = ("vlm",)
    """vlm: log-odds of its yes; prompted: the VLM's scores by the papers' criteria; trained: the Bradley-Terry model;
    rules: whether what Grounded-SAM finds is what the prompt says; rewards: the mean of the rewards; judge: the
    benchmark's own judge, as a bound."""
    vlm: YesNoVerifierConfig | None = field(default_factory=YesNoVerifierConfig)
    prompted: PromptedVerifierConfig | None = field(default_factory=PromptedVerifierConfig)
    trained: TrainedVerifierConfig | None = field(default_factory=TrainedVerifierConfig)
    rules: GroundedSamConfig | None = field(default_factory=GroundedSamConfig)
    rewards: tuple[RewardConfig, ...] = ()
    judge: Annotated[JudgeConfig | None, tyro.conf.Suppress] = None

    def __post_init__(self) -> None:
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise InputError(f"{self.kinds}", field="verifier.kinds", expected="one or more different verifiers")

    @property
    def asked_vlm(self) -> VlmConfig | None:
        """The VLM that is asked, where one is."""
        asking = [getattr(self, kind) for kind in self.kinds if kind in ("vlm", "prompted", "trained")]
        return next((chosen.vlm for chosen in asking if chosen), None)

    def _of(self, kind: VerifierKind) -> Any:
        """A kind's configuration. InputError where the preset has none, or none that names a model."""
        chosen = getattr(self, kind)
        if not self._is_set(kind):
            others = [name for name in get_args(VerifierKind) if self._is_set(name)]
            raise InputError(
                f"verifier {kind!r} has no configuration here: no model is named for it",
                field=f"verifier.{kind}",
                expected=" or ".join(["a model" if chosen is None else f"verifier.{kind}.model", *others]),
            )
        return chosen

    def _is_set(self, kind: VerifierKind) -> bool:
        chosen = getattr(self, kind)
        return bool(chosen) and not (kind == "trained" and not chosen.model)

    def only_what_is_used(self, vlm: VlmConfig) -> VerifierConfig:
        """Without the configurations of others, on which the search does not depend; `vlm` is who is asked where no
        other is named. InputError for a kind that the preset has no model of."""
        kept: dict[str, Any] = {}
        for kind in self.kinds:
            chosen = self._of(kind)
            if kind == "rewards":
                chosen = without_weights(used_rewards(chosen))
            elif kind in ("rules", "judge"):
                chosen = chosen.only_what_is_used()
            else:
                chosen = replace(chosen, vlm=chosen.vlm or vlm)
            kept[kind] = chosen
        nothing: dict[str, Any] = dict.fromkeys(("vlm", "prompted", "trained", "rules", "judge")) | {"rewards": ()}
        return VerifierConfig(self.kinds, **(nothing | kept))

    def open(self, journal: Journal | None = None) -> Verifier:
        """Load what `kinds` names. MissingWeightsError, InputError."""
        opened = [self.open_one(kind, journal) for kind in self.kinds]
        return opened[0] if len(opened) == 1 else MeanVerifier(opened)

    def open_one(self, kind: VerifierKind, journal: Journal | None = None) -> Verifier:
        """Load one of them alone. MissingWeightsError, InputError."""
        chosen = self._of(kind)
        if kind == "rewards":
            return MeanVerifier([RewardVerifier(reward.open()) for reward in chosen])
        if kind == "rules":
            return RuleVerifier(chosen.open())
        if kind == "judge":
            return JudgeVerifier(chosen.open())
        return chosen.open(journal)


class MeanVerifier:
    """The mean of several verifiers' scores (log-odds of about the same scale)."""

    def __init__(self, verifiers: Sequence[Verifier]) -> None:
        self._verifiers = verifiers

    def score(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """float32 (n,)."""
        return self.score_with_costs(images, prompts)[0]

    def score_with_costs(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> tuple[np.ndarray, list[Cost]]:
        """Every one of them is asked."""
        return self.score_prompts(images, [record_of(prompt) for prompt in prompts])

    def score_prompts(
        self, images: Sequence[np.ndarray], prompts: Sequence[PromptRecord]
    ) -> tuple[np.ndarray, list[Cost]]:
        """The same, of prompts with what a file said of them."""
        scores, costs = zip(*(score_prompts(v, images, prompts) for v in self._verifiers), strict=True)
        return np.stack(scores).mean(axis=0), [sum(of_one, Cost()) for of_one in zip(*costs, strict=True)]


class RewardVerifier(OneCallAnImage):
    """A reward that chooses."""

    def __init__(self, reward: Reward) -> None:
        self._reward = reward

    def score(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """float32 (n,), on the reward's own scale."""
        return self._reward.score(images, prompts)


class RuleVerifier(OneCallAnImage):
    """The check of GenEval's rules on what Grounded-SAM finds, as in the dataset's `rule` subset. The detector is less
    sure of malformed objects than of clear ones, and so is the check's score."""

    def __init__(self, grounded_sam: GroundedSam) -> None:
        self._grounded_sam = grounded_sam

    def score(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """float32 (n,) in [-RULES_SCALE / 2, RULES_SCALE / 2]. InputError for a prompt in none of GenEval's forms."""
        return self.score_prompts(images, [record_of(prompt) for prompt in prompts])[0]

    def score_prompts(
        self, images: Sequence[np.ndarray], prompts: Sequence[PromptRecord]
    ) -> tuple[np.ndarray, list[Cost]]:
        """The same, and a call for each image. InputError for a prompt without clauses whose words tell none."""
        checks = self._grounded_sam.check(images, [with_requirements(prompt) for prompt in prompts])
        scores = np.array([check.score for check in checks], np.float32)
        return (scores - np.float32(0.5)) * np.float32(RULES_SCALE), [Cost(verifier_calls=1)] * len(images)


class JudgeVerifier(OneCallAnImage):
    """The benchmark's judge as a verifier: 1 for a right image, else 0."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    def score(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """float32 (n,). InputError for a prompt in none of GenEval's forms."""
        return self.score_prompts(images, [record_of(prompt) for prompt in prompts])[0]

    def score_prompts(
        self, images: Sequence[np.ndarray], prompts: Sequence[PromptRecord]
    ) -> tuple[np.ndarray, list[Cost]]:
        """The same, and a call for each image. InputError for a prompt without clauses whose words tell none."""
        checks = judge_images(self._judge, images, [with_requirements(prompt) for prompt in prompts])
        return np.array([check.correct for check in checks], np.float32), [Cost(verifier_calls=1)] * len(images)
