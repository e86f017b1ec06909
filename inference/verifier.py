"""Which verifiers choose among images: a VLM that is asked, a trained one, NVILA, rules, requirements one by one,
rewards, or the judge itself as the bound that no verifier passes. A new kind is a file with its configuration and
class, and a field here."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, get_args

import numpy as np
import tyro

from inference.grounding.check import RULES_SCALE
from inference.grounding.grounded_sam import GroundedSam, GroundedSamConfig
from inference.interfaces import Opinion, Reward, Verifier, check_scores, verify_records
from inference.judges.judge import Judge, JudgeConfig, judge_images
from inference.judges.questions_judge import QuestionsJudge
from inference.prompt_grammar import record_of, with_requirements
from inference.requirements.atom_verifier import AtomVerifierConfig
from inference.rewards.ensemble import relative_scores
from inference.rewards.reward import RewardConfig, used_rewards, without_weights
from inference.vlm.endpoint import Journal
from inference.vlm.nvila_verifier import NvilaVerifierConfig
from inference.vlm.prompted_verifier import PromptedVerifierConfig
from inference.vlm.trained_verifier import TrainedVerifierConfig
from inference.vlm.vlm import VlmConfig
from inference.vlm.yes_no_verifier import YesNoVerifierConfig
from schemas.configuration import added_field
from schemas.errors import InputError
from schemas.records import Cost, PromptRecord
from schemas.records import Reward as RewardValue

VerifierKind = Literal["vlm", "prompted", "trained", "nvila", "rules", "atoms", "rewards", "judge"]
ASKING = ("vlm", "prompted", "trained", "nvila", "atoms")
"""Those that a VLM belongs to."""


@dataclass(frozen=True)
class VerifierConfig:
    """One verifier, or the mean of several; only what `kinds` names is loaded."""

    kinds: tuple[VerifierKind, ...] = ("vlm",)
    """vlm: log-odds of its yes; prompted: the VLM's scores by the papers' criteria; trained: the Bradley-Terry model;
    nvila: SANA's NVILA, whose scores order images and mean nothing beside others'; rules: whether what Grounded-SAM
    finds is what the prompt says; atoms: each requirement by itself, typed ones by Grounded-SAM, questions by a VLM;
    rewards: the mean of their z-scores among a prompt's images; judge: the
    benchmark's own judge, as a bound."""
    vlm: YesNoVerifierConfig | None = field(default_factory=YesNoVerifierConfig)
    prompted: PromptedVerifierConfig | None = field(default_factory=PromptedVerifierConfig)
    trained: TrainedVerifierConfig | None = field(default_factory=TrainedVerifierConfig)
    nvila: NvilaVerifierConfig | None = field(default_factory=NvilaVerifierConfig)
    rules: GroundedSamConfig | None = field(default_factory=GroundedSamConfig)
    rewards: tuple[RewardConfig, ...] = ()
    judge: Annotated[JudgeConfig | None, tyro.conf.Suppress] = None
    atoms: AtomVerifierConfig | None = added_field(None)

    def __post_init__(self) -> None:
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise InputError(f"{self.kinds}", field="verifier.kinds", expected="one or more different verifiers")

    @property
    def asked_vlm(self) -> VlmConfig | None:
        """The VLM that is asked, where one is."""
        asking = [getattr(self, kind) for kind in self.kinds if kind in ASKING]
        return next((chosen.vlm for chosen in asking if chosen), None)

    @property
    def is_client(self) -> bool:
        """Whether all its work is to ask a VLM elsewhere."""
        asking = [getattr(self, kind) for kind in self.kinds if kind in ("vlm", "prompted", "atoms")]
        return len(asking) == len(self.kinds) and all(one is not None and one.is_client for one in asking)

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
                chosen = without_weights(used_rewards(chosen, vlm))
            elif kind in ("rules", "judge"):
                chosen = chosen.only_what_is_used()
            else:
                chosen = replace(chosen, vlm=chosen.vlm or vlm)
                chosen = chosen.only_what_is_used() if kind in ("nvila", "atoms") else chosen
            kept[kind] = chosen
        models = ("vlm", "prompted", "trained", "nvila", "rules", "judge", "atoms")
        nothing: dict[str, Any] = dict.fromkeys(models) | {"rewards": ()}
        return VerifierConfig(self.kinds, **(nothing | kept))

    def check_mean(self) -> None:
        """InputError for rewards beside other verifiers: one alone has a scale of its own, several are z-scores among
        the images that are looked at; a mean with log-odds would follow whichever has the larger numbers."""
        if "rewards" in self.kinds and len(self.kinds) > 1:
            raise InputError(
                f"a mean of {', '.join(self.kinds)}: rewards have scales of their own, the others have log-odds",
                field="verifier.kinds",
                expected="rewards alone, or the others alone (a search's --also-score tells what the rewards think)",
            )

    def open(self, journal: Journal | None = None) -> Verifier:
        """Load what `kinds` names. MissingWeightsError, InputError."""
        self.check_mean()
        opened = [self.open_one(kind, journal) for kind in self.kinds]
        return opened[0] if len(opened) == 1 else MeanVerifier(opened)

    def open_one(self, kind: VerifierKind, journal: Journal | None = None) -> Verifier:
        """Load one of them alone. MissingWeightsError, InputError."""
        chosen = self._of(kind)
        if kind == "rewards":
            return RewardVerifier({reward.name: reward.open(journal) for reward in chosen})
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
        return scores_of(self.verify(images, prompts))

    def verify(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> list[Opinion]:
        """Every one of them is asked; the reasons of those that give some."""
        return self.verify_records(images, [record_of(prompt) for prompt in prompts])

    def verify_records(self, images: Sequence[np.ndarray], prompts: Sequence[PromptRecord]) -> list[Opinion]:
        """The same, of prompts with what a file said of them."""
        asked = [verify_records(verifier, images, prompts) for verifier in self._verifiers]
        means = np.stack([scores_of(opinions) for opinions in asked]).mean(axis=0)
        return [
            Opinion(
                mean,
                sum((one.cost for one in of_image), Cost()),
                " ".join(one.explanation for one in of_image if one.explanation),
                atoms=tuple(atom for one in of_image for atom in one.atoms),
            )
            for mean, of_image in zip(means.tolist(), zip(*asked, strict=True), strict=True)
        ]


def scores_of(opinions: Sequence[Opinion]) -> np.ndarray:
    """float32 (n,)."""
    return np.array([one.score for one in opinions], np.float32)


class RewardVerifier:
    """Rewards that choose. One alone does so on its own scale. Several are on different scales: each is brought to z
    among the images of a prompt that are looked at together, then they are averaged; and what they said is kept, so
    that images which come later are compared with those."""

    def __init__(self, rewards: Mapping[str, Reward]) -> None:
        self._rewards = rewards

    def score(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """float32 (n,)."""
        return scores_of(self.verify(images, prompts))

    def verify(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> list[Opinion]:
        """A call of each reward for each image."""
        said = {name: reward.score(images, prompts) for name, reward in self._rewards.items()}
        for name, values in said.items():
            check_scores(values, prompts, name)
        cost = Cost(verifier_calls=len(said))
        if len(said) == 1:
            return [Opinion(value, cost) for values in said.values() for value in values.tolist()]
        parts = [tuple(RewardValue(name, float(said[name][i])) for name in said) for i in range(len(images))]
        places: dict[str, list[int]] = {}
        for i, prompt in enumerate(prompts):
            places.setdefault(prompt, []).append(i)
        scores = np.zeros(len(images))
        for of_prompt in places.values():
            scores[of_prompt] = relative_scores([parts[i] for i in of_prompt])
        return [Opinion(score, cost, parts=part) for score, part in zip(scores.tolist(), parts, strict=True)]


class ByRequirements:
    """For verifiers that look at what a prompt requires, one call an image: of words alone, at what they tell."""

    def score(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """float32 (n,). InputError for a prompt in none of GenEval's forms."""
        return scores_of(self.verify(images, prompts))

    def verify(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> list[Opinion]:
        """The same, and a call for each image."""
        return self.verify_records(images, [record_of(prompt) for prompt in prompts])

    def verify_records(self, images: Sequence[np.ndarray], prompts: Sequence[PromptRecord]) -> list[Opinion]:
        """The same. InputError for a prompt without clauses whose words tell none."""
        scores = self.scores(images, [with_requirements(prompt) for prompt in prompts])
        return [Opinion(score, Cost(verifier_calls=1)) for score in scores.tolist()]

    @abstractmethod
    def scores(self, images: Sequence[np.ndarray], prompts: Sequence[PromptRecord]) -> np.ndarray:
        """float32 (n,), of prompts with requirements."""


class RuleVerifier(ByRequirements):
    """The check of GenEval's rules on what Grounded-SAM finds, as in the dataset's `rule` subset. The detector is less
    sure of malformed objects than of clear ones, and so is the check's score."""

    def __init__(self, grounded_sam: GroundedSam) -> None:
        self._grounded_sam = grounded_sam

    def scores(self, images: Sequence[np.ndarray], prompts: Sequence[PromptRecord]) -> np.ndarray:
        """In [-RULES_SCALE / 2, RULES_SCALE / 2]."""
        scores = np.array([check.score for check in self._grounded_sam.check(images, prompts)], np.float32)
        return (scores - np.float32(0.5)) * np.float32(RULES_SCALE)


class JudgeVerifier(ByRequirements):
    """The benchmark's judge as a verifier."""

    def __init__(self, judge: Judge | QuestionsJudge) -> None:
        self._judge = judge

    def scores(self, images: Sequence[np.ndarray], prompts: Sequence[PromptRecord]) -> np.ndarray:
        """1 for a right image, else 0."""
        return np.array([check.correct for check in judge_images(self._judge, images, prompts)], np.float32)
