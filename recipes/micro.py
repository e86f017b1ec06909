"""micro: the shipped family of tiny models on its rendered world of shapes; everything on two CPU cores."""

from __future__ import annotations

from dataclasses import replace

from inference.corrector import CorrectorConfig
from inference.critic import CriticConfig
from inference.flux.corrector import FluxCorrectorConfig
from inference.generator import GeneratorConfig
from inference.grounding.grounded_sam import GroundedSamConfig
from inference.judges.judge import JudgeConfig
from inference.rewards.clip_reward import ClipRewardConfig
from inference.rewards.reward import RewardConfig
from inference.search_tools import SearchToolsConfig
from inference.verifier import VerifierConfig
from inference.vlm.critic import VlmCriticConfig
from inference.vlm.prompted_verifier import PromptedVerifierConfig
from inference.vlm.trained_verifier import TrainedVerifierConfig
from inference.vlm.vlm import VlmConfig
from inference.vlm.yes_no_verifier import YesNoVerifierConfig
from microworld import family
from pipelines.driver import RunOptions
from pipelines.jobs import DatasetConfig
from pipelines.search_job import SearchJobConfig
from pipelines.stages.caption_images import CaptionImagesConfig
from pipelines.stages.condense_prompts import CondensePromptsConfig
from pipelines.stages.filter_pairs import FilterPairsConfig
from pipelines.stages.generate_candidates import GenerateCandidatesConfig
from pipelines.stages.ground_objects import GroundObjectsConfig
from pipelines.stages.judge_candidates import JudgeCandidatesConfig
from pipelines.stages.score_rewards import ScoreRewardsConfig
from pipelines.stages.write_reflections import WriteReflectionsConfig


def generator() -> GeneratorConfig:
    """The micro FLUX."""
    return family.micro_generator()


def grounding() -> GroundedSamConfig:
    """The micro GroundingDINO and SAM."""
    return family.micro_grounded_sam()


def rewards() -> tuple[RewardConfig, ...]:
    """The three micro CLIPs."""
    return family.micro_rewards()


def vlm() -> VlmConfig:
    """The micro VLM, in process."""
    return family.micro_vlm()


def judge() -> JudgeConfig:
    """The micro judge, trained apart from everything that a search uses."""
    return family.micro_judge()


def drift_clip() -> ClipRewardConfig:
    """The micro CLIP that was trained on captions."""
    return family.micro_clip("clip")


def run_options() -> RunOptions:
    """All stages at once: the models are small."""
    return RunOptions()


def verifier() -> VerifierConfig:
    """All kinds there are; the VLM is asked unless flags say otherwise."""
    return VerifierConfig(
        vlm=YesNoVerifierConfig(prompt="micro/verify"),
        prompted=PromptedVerifierConfig(prompt="micro/judge"),
        trained=TrainedVerifierConfig(model="micro/verifier"),
        rules=grounding(),
        rewards=rewards(),
        judge=judge(),
    )


def dataset() -> DatasetConfig:
    """Small units: a laptop is stopped often."""
    deviations = TrainedVerifierConfig(model="micro/verifier", scores="deviations")
    return DatasetConfig(
        num_prompts=48,
        vocabulary="micro",
        closed_vocabulary=True,
        unit_size=8,
        generate=GenerateCandidatesConfig(generator=generator()),
        ground=GroundObjectsConfig(grounding()),
        rewards=ScoreRewardsConfig(rewards()),
        vlm=vlm(),
        # The micro VLM knows no words beside the world's, and images are as small as it takes them.
        condense=CondensePromptsConfig(prompt="micro/condense", max_new_words=0.0),
        caption=CaptionImagesConfig(prompt="micro/caption"),
        reflect=WriteReflectionsConfig(prompt="micro/compare", reflector_prompt="micro/reflect", image_px=0),
        filter=FilterPairsConfig(replace(verifier(), trained=deviations, judge=None)),
    )


def search() -> SearchJobConfig:
    """The micro world's own benchmark."""
    critic = VlmCriticConfig(reflect="micro/reflect", refine="micro/refine", keep_words=True)
    return SearchJobConfig(
        prompts="micro-dev",
        vocabulary="micro",
        closed_vocabulary=True,
        unit_size=8,
        vlm=vlm(),
        tools=SearchToolsConfig(
            generator=generator(),
            corrector=CorrectorConfig("flux", FluxCorrectorConfig("micro/corrector")),
            critic=CriticConfig("vlm", critic),
            verifier=verifier(),
        ),
        judge=JudgeCandidatesConfig(judge()),
    )
