"""micro: the shipped family of tiny models on its rendered world of shapes; everything on two CPU cores."""

from __future__ import annotations

from dataclasses import replace

from inference.corrector import CorrectorConfig
from inference.critic import CriticConfig
from inference.dual.expanded_prompts import ExpanderConfig
from inference.dual.question_words import QuestionWords
from inference.flux.condition_config import ConditionConfig
from inference.flux.corrector import FluxCorrectorConfig
from inference.generator import GeneratorConfig
from inference.grounding.grounded_sam import GroundedSamConfig
from inference.judges.description_judge import DescriptionJudgeConfig
from inference.judges.judge import JudgeConfig
from inference.judges.questions_judge import QuestionsJudgeConfig
from inference.requirements.atom_critic import AtomCriticConfig
from inference.requirements.atom_verifier import AtomVerifierConfig
from inference.requirements.reader import RequirementsConfig
from inference.rewards.clip_reward import ClipRewardConfig
from inference.rewards.reward import RewardConfig
from inference.search import SearchConfig
from inference.search_tools import SearchToolsConfig
from inference.verifier import VerifierConfig
from inference.vlm.critic import VlmCriticConfig
from inference.vlm.prompted_verifier import PromptedVerifierConfig
from inference.vlm.trained_verifier import TrainedVerifierConfig
from inference.vlm.vlm import VlmConfig
from inference.vlm.yes_no_verifier import YesNoVerifierConfig
from microworld import family
from microworld.scenes.captions import training_captions
from microworld.scenes.world import SHAPES
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
from trainers.condenser import CondenserConfig, CondenserTrainingConfig
from trainers.corrector import CorrectorTrainingConfig
from trainers.corrector_batches import BatchConfig, DropConfig
from trainers.denoiser_config import DenoiserConfig
from trainers.dual_process_config import DualProcessConfig
from trainers.flux_denoiser import TEXT_TARGETS
from trainers.loop import LoopConfig
from trainers.optimizer import OptimizerConfig
from trainers.reflector import ReflectorConfig, ReflectorTrainingConfig
from trainers.shard_dataset import MixSchedule
from trainers.verifier import RewardModelConfig, VerifierTrainingConfig
from trainers.vqa_loss import TeacherConfig


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


def question_words() -> QuestionWords:
    """The micro VLM says what a word means in one sentence, and writes no questions."""
    return QuestionWords(implied="micro/implied")


def judge() -> JudgeConfig:
    """The micro judge, trained apart from everything that a search uses. Of any prompt, once it is asked for: the micro
    VLM, where it does not choose."""
    return replace(family.micro_judge(), questions=QuestionsJudgeConfig(vlm(), prompt="micro/question"))


def description_judge() -> DescriptionJudgeConfig:
    """The micro VLM, or the micro CLIP of captions."""
    return DescriptionJudgeConfig(vlm=vlm(), clip=family.micro_clip("clip"), prompt="micro/fits_description")


def expander() -> ExpanderConfig:
    """The micro VLM, which knows words that the micro FLUX does not."""
    return ExpanderConfig(vlm(), "micro/refine")


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
        prompted=PromptedVerifierConfig(prompt="micro/judge", images_per_request=1),
        trained=TrainedVerifierConfig(model="micro/verifier"),
        nvila=None,
        rules=grounding(),
        rewards=rewards(),
        judge=judge(),
        atoms=AtomVerifierConfig(
            grounding=grounding(), other_classes=tuple(SHAPES), unsure=(0.25, 0.7), prompt="micro/question"
        ),
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
        reflect=WriteReflectionsConfig(prompt="micro/compare", reflector_prompt="", image_px=0),
        filter=FilterPairsConfig(replace(verifier(), trained=deviations, judge=None)),
    )


def search() -> SearchJobConfig:
    """The micro world's own benchmark, searched in the best way that was found on prompts that are not sealed
    (docs/findings/search.md): what the verifier finds to fail is said, and what it does not know, the trained reflector
    says; chains go on from their best image; eight images a prompt, where it is furthest ahead of best of N. The
    paper's own way is `micro_paper`."""
    critic = VlmCriticConfig(
        reflector="micro/reflector",
        reflect="micro/reflect",
        reflector_prompt="",
        refine="micro/refine",
        keep_words=True,
        max_attempts=1,
    )
    return SearchJobConfig(
        prompts="micro-dev",
        vocabulary="micro",
        closed_vocabulary=True,
        unit_size=8,
        search=SearchConfig(width=2, depth=4, strategy="reflection", carry="best"),
        vlm=vlm(),
        requirements=RequirementsConfig("whole"),  # nobody in the family reads free prompts
        tools=SearchToolsConfig(
            generator=generator(),
            corrector=CorrectorConfig("flux", FluxCorrectorConfig("micro/corrector")),
            critic=CriticConfig("atoms", critic, AtomCriticConfig(max_told=2, sure=4.0, reflect="micro/reflect")),
            verifier=replace(verifier(), kinds=("vlm", "atoms")),
            routes="micro/routes",
        ),
        judge=JudgeCandidatesConfig(judge()),
    )


# Nine in ten of the micro world's triplets are edits: they stay in.
EDITING_STAYS = {"general": 0.1, "length": 0.1, "rule": 0.3, "editing": 0.5}


def corrector_training() -> CorrectorTrainingConfig:
    """For the micro FLUX on two cores, as the shipped corrector was trained.

    The condition at full resolution (half of 32 px would leave four tokens) and over the image, the LoRA on all tokens,
    more of the noisy times and a quarter of the samples at t = 1, where it is decided what goes where, and more weight
    where the images differ.
    """
    return CorrectorTrainingConfig(
        generator=generator(),
        condition=ConditionConfig(lora_on="all", position="over", adapt_text=True, rank=32, alpha=32.0),
        batch=BatchConfig(
            32, 32, DropConfig(0.05, 0.05, 0.15), time_shift=1.0, start_share=0.25, difference_weight=1.0
        ),
        loop=LoopConfig(
            steps=2000, batch_size=192, micro_batch=192, checkpoint_every=100, report_every=20, ema_decay=0.998
        ),
        optimizer=OptimizerConfig("adamw", 2e-3, warmup_steps=60, decay_steps=700, max_gradient_norm=1.0),
        mix=MixSchedule(end=EDITING_STAYS, steps=500),
        held_out_share=0.05,
        guidance=2.0,
    )


def verifier_training() -> VerifierTrainingConfig:
    """For the micro VLM on two cores."""
    return VerifierTrainingConfig(
        model=RewardModelConfig("micro/vlm", "micro/verify", rank=32),
        variant="regularised",
        loop=LoopConfig(steps=600, batch_size=24, micro_batch=24, evaluate_every=100, checkpoint_every=50),
        optimizer=OptimizerConfig("adamw", 4e-4, warmup_steps=30, decay_steps=200, max_gradient_norm=1.0),
        bf16=False,
    )


def reflector_training() -> ReflectorTrainingConfig:
    """For the micro VLM on two cores."""
    return ReflectorTrainingConfig(
        model=ReflectorConfig("micro/vlm", "micro/reflect", "micro/compare", right_share=0.1, rank=32, image_px=0),
        loop=LoopConfig(steps=600, batch_size=32, micro_batch=32, evaluate_every=100, checkpoint_every=50),
        optimizer=OptimizerConfig("adamw", 6e-4, warmup_steps=30, decay_steps=400, max_gradient_norm=1.0),
        bf16=False,
    )


def condenser_training() -> CondenserTrainingConfig:
    """For the micro VLM on two cores."""
    return CondenserTrainingConfig(
        model=CondenserConfig("micro/vlm", "micro/condense", rank=32),
        loop=LoopConfig(steps=300, batch_size=32, micro_batch=32, evaluate_every=100, checkpoint_every=50),
        optimizer=OptimizerConfig("adamw", 6e-4, warmup_steps=30, decay_steps=200, max_gradient_norm=1.0),
        bf16=False,
    )


def dual_process() -> DualProcessConfig:
    """The micro FLUX and the micro VLM on two cores: larger steps, several images each, and a gradient through all four
    steps: what one step makes of the micro FLUX's noise is too blurred for the VLM to say anything about. The LoRA is
    the text's alone: through weights of the image the gradient finds textures that fool the micro VLM. What it does to
    24 training captions is held down, or a concept costs half of all other prompts."""
    return DualProcessConfig(
        generator=DenoiserConfig(flux=family.micro_flux()),
        teacher=TeacherConfig("micro/teacher"),
        keep_weight=10.0,
        keep_prompts=training_captions(24),
        batch_size=8,
        steps=80,
        learning_rate=1e-3,
        weight_decay=0.01,
        lora_targets=TEXT_TARGETS,
        warmup_steps=10,
        gradient_steps=4,
        stop_probability=0.9,
    )
