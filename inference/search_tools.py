"""The models of a search, by configuration: generator, corrector, critic, and who chooses among the images: a VLM that
is asked, a trained verifier, reward models, or the judge itself as the bound that no verifier passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import tyro

from inference.flux.generator import FluxGeneratorConfig
from inference.grounding.grounded_sam import GroundedSam, GroundedSamConfig
from inference.grounding.presets import micro_grounded_sam
from inference.interfaces import Corrector, Reward, Verifier
from inference.judges.judge import Judge, JudgeConfig, judge_images, open_judge
from inference.prompt_grammar import parse_prompt
from inference.rewards.presets import RewardsConfig
from inference.search import Critic, SearchConfig, SearchTools, score_with_costs
from inference.vlm.critic import CriticConfig, VlmCritic
from inference.vlm.endpoint import Journal
from inference.vlm.prompted_verifier import PromptedVerifier, PromptedVerifierConfig
from inference.vlm.prompts import load_prompt
from inference.vlm.verifier import VerifierConfig, open_verifier
from inference.vlm.vlm import VlmConfig, open_vlm
from schemas.configuration import model_field
from schemas.errors import InputError
from schemas.records import Cost

if TYPE_CHECKING:
    from inference.vlm.reward_model import RewardModel

VerifierKind = Literal["vlm", "prompted", "trained", "rules", "rewards", "judge"]
OracleKind = Literal["corrector", "reflector"]
RULES_SCALE = 20.0  # makes of a check's score about what the other verifiers' log-odds are; from 10 to 40 it is all one


@dataclass(frozen=True)
class SearchVerifierConfig:
    """One verifier, or the mean of several; only what `kinds` names is loaded."""

    kinds: tuple[VerifierKind, ...] = ("vlm",)
    """vlm: log-odds of its yes; prompted: the VLM's scores by the papers' criteria; trained: the Bradley-Terry model;
    rules: whether what Grounded-SAM finds is what the prompt says; rewards: the mean of the CLIP rewards; judge: the
    benchmark's own judge, as a bound."""
    vlm: VerifierConfig | None = field(default_factory=VerifierConfig)
    prompted: PromptedVerifierConfig | None = field(default_factory=PromptedVerifierConfig)
    trained: VerifierConfig | None = field(default_factory=lambda: VerifierConfig(model="micro/verifier"))
    rules: GroundedSamConfig | None = field(default_factory=micro_grounded_sam)
    rewards: RewardsConfig | None = field(default_factory=RewardsConfig)
    judge: Annotated[JudgeConfig | None, tyro.conf.Suppress] = field(
        default_factory=lambda: JudgeConfig().only_what_is_used()
    )

    def __post_init__(self) -> None:
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise InputError(f"{self.kinds}", field="verifier.kinds", expected="one or more different verifiers")

    def only_what_is_used(self, vlm: VlmConfig) -> SearchVerifierConfig:
        """Without the configurations of others, on which the search does not depend; `vlm` is who is asked."""
        return SearchVerifierConfig(
            self.kinds,
            vlm=replace(self.vlm, vlm=vlm) if self.vlm and "vlm" in self.kinds else None,
            prompted=replace(self.prompted, vlm=vlm) if self.prompted and "prompted" in self.kinds else None,
            trained=replace(self.trained, vlm=vlm) if self.trained and "trained" in self.kinds else None,
            rules=self.rules if "rules" in self.kinds else None,
            rewards=self.rewards if "rewards" in self.kinds else None,
            judge=self.judge if "judge" in self.kinds else None,
        )


class MeanVerifier:
    """The mean of several verifiers' scores (log-odds of about the same scale)."""

    def __init__(self, verifiers: Sequence[Reward]) -> None:
        self._verifiers = verifiers

    def score(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """float32 (n,)."""
        return self.score_with_costs(images, prompts)[0]

    def score_with_costs(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> tuple[np.ndarray, list[Cost]]:
        """Every one of them is asked."""
        scores, costs = zip(*(score_with_costs(v, images, prompts) for v in self._verifiers), strict=True)
        return np.stack(scores).mean(axis=0), [sum(of_one, Cost()) for of_one in zip(*costs, strict=True)]


class LogOddsVerifier:
    """A Bradley-Terry model in its own unit again: differences are log-odds, as those of the others are."""

    def __init__(self, model: RewardModel) -> None:
        self._model = model

    def score(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """float32 (n,), about 0 for an average image."""
        return self._model.score(images, prompts) * np.float32(self._model.description.std)


class RuleVerifier:
    """The check of GenEval's rules on what Grounded-SAM finds, as in the dataset's `rule` subset. The detector is less
    sure of malformed objects than of clear ones, and so is the check's score."""

    def __init__(self, grounded_sam: GroundedSam) -> None:
        self._grounded_sam = grounded_sam

    def score(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """float32 (n,) in [-RULES_SCALE / 2, RULES_SCALE / 2]. InputError for a prompt in none of GenEval's forms."""
        checks = self._grounded_sam.check(images, [parse_prompt(prompt) for prompt in prompts])
        return (np.array([check.score for check in checks], np.float32) - np.float32(0.5)) * np.float32(RULES_SCALE)


class JudgeVerifier:
    """The benchmark's judge as a verifier: 1 for a right image, else 0. Prompts in one of GenEval's forms."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    def score(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """float32 (n,). InputError for a prompt in another form."""
        checks = judge_images(self._judge, images, [parse_prompt(prompt) for prompt in prompts])
        return np.array([check.correct for check in checks], np.float32)


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
    if kind == "rules":
        return RuleVerifier(GroundedSam.from_config(chosen))
    if kind == "judge":
        return JudgeVerifier(open_judge(chosen))
    if kind == "prompted":
        return PromptedVerifier(open_vlm(chosen.vlm or VlmConfig(), journal), load_prompt(chosen.prompt))
    if kind == "trained":
        from inference.vlm.reward_model import RewardModel

        return LogOddsVerifier(RewardModel(chosen.model, chosen.vlm or VlmConfig()))
    return open_verifier(chosen, journal)


@dataclass(frozen=True)
class SearchToolsConfig:
    """The models of a search."""

    generator: FluxGeneratorConfig = field(default_factory=FluxGeneratorConfig)
    corrector: str = model_field("micro/corrector")
    """A trained corrector's folder; strategies that draw afresh need none."""
    critic: CriticConfig | None = field(default_factory=CriticConfig)
    """Reflector and prompt refiner; none for noise alone."""
    verifier: SearchVerifierConfig = field(default_factory=SearchVerifierConfig)
    oracles: tuple[OracleKind, ...] = ()
    """For diagnosis, micro world only: parts that see what the judge sees (`microworld/oracles.py`)."""

    def for_search(self, search: SearchConfig, vlm: VlmConfig) -> SearchToolsConfig:
        """What a strategy needs of it and nothing else, with `vlm` as who is asked. InputError for what is missing."""
        corrects = "reflection" in search.strategy and "corrector" not in self.oracles
        if corrects and not self.corrector:
            raise InputError(
                f"strategy {search.strategy!r} without a corrector",
                field="--tools.corrector",
                expected="a folder that `python -m trainers corrector` wrote",
            )
        critic = None
        if search.strategy != "noise":
            if self.critic is None:
                raise InputError(f"strategy {search.strategy!r}", field="tools.critic", expected="who reflects")
            critic = replace(self.critic, vlm=vlm)
        return SearchToolsConfig(
            self.generator,
            self.corrector if corrects else "",
            critic,
            self.verifier.only_what_is_used(vlm),
            self.oracles,
        )


def open_search_tools(config: SearchToolsConfig, journal: Journal | None = None) -> SearchTools:
    """Loads what the configuration names. MissingWeightsError."""
    from inference.flux.corrector import CorrectorConfig, FluxCorrector
    from inference.flux.generator import FluxGenerator

    generator = FluxGenerator(config.generator)
    corrector: Corrector | None = None
    critic: Critic | None = None
    if config.oracles:
        from inference.judges.segmentation_judge import SegmentationJudge
        from microworld.oracles import OracleCorrector, OracleCritic

        judge = SegmentationJudge()
        corrector = OracleCorrector(judge) if "corrector" in config.oracles else None
        critic = OracleCritic(judge) if "reflector" in config.oracles else None
    if config.corrector:
        corrector = FluxCorrector(CorrectorConfig(config.corrector, config.generator), generator)
    if critic is None and config.critic is not None:
        critic = open_critic(config.critic, journal)
    verifier = open_search_verifier(config.verifier, journal)
    passes = config.generator.denoiser_passes_per_image
    return SearchTools(generator, verifier, corrector, critic, passes, config.generator.num_steps)


def open_critic(config: CriticConfig, journal: Journal | None = None) -> VlmCritic:
    """Reflector and refiner: one VLM, or two where a reflector was trained."""
    refiner = open_vlm(config.vlm, journal)
    if not config.reflector:
        return VlmCritic(refiner, refiner, config)
    reflector = replace(config.vlm, model=config.reflector, endpoint_model="", base_url="")
    return VlmCritic(open_vlm(reflector, journal), refiner, config)
