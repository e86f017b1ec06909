"""flux: FLUX.1-dev, GroundingDINO and SAM, CLIP with HPSv2.1 and PickScore, Qwen2.5-VL, on data-centre GPUs."""

from __future__ import annotations

from dataclasses import replace

from inference.corrector import CorrectorConfig
from inference.critic import CriticConfig
from inference.flux.condition_config import ConditionConfig
from inference.flux.generator import FluxGeneratorConfig
from inference.generator import GeneratorConfig
from inference.grounding.clip_color import ClipColorConfig
from inference.grounding.color_namer import ColorNamerConfig
from inference.grounding.detector import DetectorConfig
from inference.grounding.grounded_sam import GroundedSamConfig
from inference.grounding.grounding_dino import GroundingDinoConfig
from inference.grounding.sam import SamConfig
from inference.grounding.segmenter import SegmenterConfig
from inference.judges.judge import JudgeConfig
from inference.judges.mask2former_judge import Mask2FormerJudgeConfig
from inference.judges.questions_judge import QuestionsJudgeConfig
from inference.requirements.atom_critic import AtomCriticConfig
from inference.requirements.atom_verifier import AtomVerifierConfig
from inference.rewards.clip_reward import ClipRewardConfig
from inference.rewards.reward import RewardConfig
from inference.search import SearchConfig
from inference.search_tools import SearchToolsConfig
from inference.verifier import VerifierConfig
from inference.vlm.critic import VlmCriticConfig
from inference.vlm.nvila_verifier import NvilaVerifierConfig
from inference.vlm.prompted_verifier import PromptedVerifierConfig
from inference.vlm.trained_verifier import TrainedVerifierConfig
from inference.vlm.vlm import VlmConfig
from inference.vlm.yes_no_verifier import YesNoVerifierConfig
from pipelines.driver import RunOptions
from pipelines.jobs import DatasetConfig
from pipelines.model_costs import flux_memory, vllm_memory
from pipelines.pack_shards import PackShardsConfig
from pipelines.placement import Cluster
from pipelines.search_job import SearchJobConfig
from pipelines.stage import Workers
from pipelines.stages.caption_images import CaptionImagesConfig
from pipelines.stages.condense_prompts import CondensePromptsConfig
from pipelines.stages.filter_pairs import FilterPairsConfig
from pipelines.stages.generate_candidates import GenerateCandidatesConfig
from pipelines.stages.ground_objects import GroundObjectsConfig
from pipelines.stages.judge_candidates import JudgeCandidatesConfig
from pipelines.stages.score_rewards import ScoreRewardsConfig
from pipelines.stages.select_pairs import SelectPairsConfig
from pipelines.stages.write_reflections import WriteReflectionsConfig
from trainers.condenser import CondenserConfig, CondenserTrainingConfig
from trainers.corrector import CorrectorTrainingConfig
from trainers.corrector_batches import BatchConfig, DropConfig
from trainers.denoiser_config import DenoiserConfig
from trainers.dual_process_config import DualProcessConfig
from trainers.loop import LoopConfig
from trainers.optimizer import OptimizerConfig
from trainers.reflector import ReflectorConfig, ReflectorTrainingConfig
from trainers.shard_dataset import MixSchedule
from trainers.verifier import RewardModelConfig, VerifierTrainingConfig
from trainers.vqa_loss import TeacherConfig

IMAGE_VERIFIER = "diffusion-cot/Image-Verifier"
VIT_H = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
ON_GPU = Workers(count=0, cpus=2.0, gpus=1.0)
QUARTER_GPU = Workers(count=0, cpus=2.0, gpus=0.25)


def generator() -> GeneratorConfig:
    """FLUX.1-dev as ReflectionFlow uses it (§4: 30 steps, guidance 3.5, 1024 px), in bfloat16."""
    return GeneratorConfig("flux", FluxGeneratorConfig())


def grounding() -> GroundedSamConfig:
    """GroundingDINO Swin-T through the authors' package and SAM ViT-H, with the thresholds of their demos; colours as
    GenEval names them, by CLIP ViT-L/14 on the masked crop."""
    dino = GroundingDinoConfig(
        model="groundingdino_swint_ogc.pth",
        backend="groundingdino-py",
        text_encoder="google-bert/bert-base-uncased",
        batch_size=4,
        text_length=64,
        device="cuda",
    )
    # One image at a time: ViT-H's global attention takes 4 GiB an image, and a batch gains nothing.
    sam = SamConfig(model="sam_vit_h_4b8939.pth", device="cuda", image_batch=1, box_batch=16)
    color = ColorNamerConfig("clip", ClipColorConfig("openai/clip-vit-large-patch14", batch_size=32, device="cuda"))
    return GroundedSamConfig(DetectorConfig("dino", dino), SegmenterConfig("sam", sam), color)


def rewards() -> tuple[RewardConfig, ...]:
    """CLIP ViT-L/14, HPSv2.1 and PickScore (ReflectionFlow §3.2)."""
    clip = ClipRewardConfig(dtype="float16", batch_size=16, device="cuda")
    hps = replace(clip, model=VIT_H, checkpoint="HPS_v2.1_compressed.pt")
    pick = replace(clip, model="yuvalkirstain/PickScore_v1", processor=VIT_H)
    return tuple(RewardConfig(name=name, clip=one) for name, one in (("clip", clip), ("hps", hps), ("pick", pick)))


def vlm() -> VlmConfig:
    """Qwen2.5-VL-7B under vLLM (ReflectionFlow §3.2 annotates with a VLM of this size)."""
    return VlmConfig()


def judge() -> JudgeConfig:
    """GenEval's: Mask2Former and CLIP ViT-L/14. Of any prompt, once it is asked for (`--judge.kind questions`): GenEval
    2's, Qwen3-VL-8B under vLLM."""
    asked = QuestionsJudgeConfig(VlmConfig(model="Qwen/Qwen3-VL-8B-Instruct"), prompt="one_word")
    return JudgeConfig("mask2former", Mask2FormerJudgeConfig(device="cuda"), questions=asked)


def drift_clip() -> ClipRewardConfig:
    """CLIP ViT-L/14 at 336 px, as CMMD is published."""
    return ClipRewardConfig(model="openai/clip-vit-large-patch14-336", batch_size=32, device="cuda")


def run_options() -> RunOptions:
    """Staged, since it is right on any number of GPUs: each stage has them all. `plan` says when streaming is as
    fast."""
    return RunOptions(schedule="staged")


def cluster() -> Cluster:
    """One machine with eight H100s."""
    return Cluster()


def dataset() -> DatasetConfig:
    """A unit is 4 prompts, 40 images: about five minutes of one H100, so little is lost with a worker. 160 units make a
    shard of some 500 pairs when two prompts in five give their two pairs."""
    drawn = generator()
    assert drawn.flux is not None
    compiled = replace(drawn, flux=replace(drawn.flux, compile="blocks"))
    return DatasetConfig(
        num_prompts=2000,
        vocabulary="everyday",
        closed_vocabulary=False,
        unit_size=4,
        generate=GenerateCandidatesConfig(generator=compiled, workers=ON_GPU),
        ground=GroundObjectsConfig(grounding(), workers=QUARTER_GPU),
        select=SelectPairsConfig(workers=Workers(count=2, cpus=1.0)),
        rewards=ScoreRewardsConfig(rewards(), workers=QUARTER_GPU),
        vlm=vlm(),
        condense=CondensePromptsConfig(prompt="condense", max_new_words=0.2, workers=ON_GPU),
        caption=CaptionImagesConfig(prompt="caption", workers=ON_GPU),
        reflect=WriteReflectionsConfig(prompt="compare", reflector_prompt="", image_px=768, workers=ON_GPU),
        filter=FilterPairsConfig(
            VerifierConfig(
                vlm=YesNoVerifierConfig(prompt="verify"),
                prompted=PromptedVerifierConfig(prompt="judge", images_per_request=2),
                trained=TrainedVerifierConfig(model=IMAGE_VERIFIER, scores="deviations"),
                nvila=NvilaVerifierConfig(),
                rules=grounding(),
                rewards=rewards(),
            ),
            workers=ON_GPU,
        ),
        pack=PackShardsConfig(units_per_shard=160),
    )


def search() -> SearchJobConfig:
    """ReflectionFlow §4: FLUX.1-dev, width 2, depth 16, Qwen2.5-VL as verifier and critic, on GenEval's prompts."""
    tools = SearchToolsConfig(
        generator=dataset().generate.generator,
        corrector=CorrectorConfig(),  # the published one
        critic=CriticConfig(
            "vlm",
            VlmCriticConfig(
                reflect="reflect_scored", reflector_prompt="", refine="refine", keep_words=False, max_attempts=2
            ),
            AtomCriticConfig(max_told=2, sure=4.0, reflect="reflect_failing"),
        ),
        verifier=VerifierConfig(
            vlm=YesNoVerifierConfig(prompt="verify"),
            prompted=PromptedVerifierConfig(prompt="judge", images_per_request=2),
            trained=TrainedVerifierConfig(model=IMAGE_VERIFIER),
            nvila=NvilaVerifierConfig(),
            rules=grounding(),
            rewards=rewards(),
            judge=judge(),
            atoms=AtomVerifierConfig(grounding=grounding(), other_classes=(), unsure=(0.35, 0.7), prompt="one_word"),
        ),
    )
    # Each GPU holds a FLUX and, beside it, a vLLM that gets what FLUX leaves.
    available, drawn = cluster().gpu.memory_gib, tools.generator.flux
    assert drawn is not None
    shared = replace(vlm(), gpus=0.4, gpu_memory=vllm_memory(available, flux_memory(drawn)[0]))
    # A VLM that judges is there when nothing is drawn any more, beside the one that chose.
    judged = judge()
    assert judged.questions is not None
    asked = replace(judged.questions.vlm, gpus=shared.gpus, gpu_memory=shared.gpu_memory)
    judged = replace(judged, questions=replace(judged.questions, vlm=asked))
    return SearchJobConfig(
        prompts="evaluation_metadata.jsonl",
        images_per_prompt=4,
        unit_size=4,
        closed_vocabulary=False,
        vlm=shared,
        search=SearchConfig(width=2, depth=16, strategy="noise+prompt+reflection", carry="own"),
        tools=tools,
        workers=Workers(count=0, cpus=4.0, gpus=0.6),
        judge=JudgeCandidatesConfig(judged, workers=QUARTER_GPU),
    )


def corrector_training() -> CorrectorTrainingConfig:
    """The paper's (§3.3, §4.1, and its published training): FLUX.1-dev at 1024 px, the flawed image at 512 px to its
    left, a LoRA of rank 256 on its tokens alone, Prodigy, 6,000 steps of 64, the mix of subsets moving from edits to
    the others over 5,000. Blocks are recomputed, or their activations would not fit 80 GB."""
    return CorrectorTrainingConfig(
        generator=generator(),
        condition=ConditionConfig(attention="joint", lora_on="condition", position="left", rank=256, alpha=256.0),
        batch=BatchConfig(size_px=1024, condition_px=512, drop=DropConfig(text=0.1, image=0.1, reflection=0.2)),
        loop=LoopConfig(steps=6000, batch_size=64, micro_batch=1),
        optimizer=OptimizerConfig("prodigy", learning_rate=1.0, weight_decay=0.01, max_gradient_norm=0.5),
        mix=MixSchedule(
            start={"general": 0.1, "length": 0.1, "rule": 0.1, "editing": 0.7},
            end={"general": 0.3, "length": 0.3, "rule": 0.4, "editing": 0.0},
            steps=5000,
        ),
        recompute=True,
    )


def verifier_training() -> VerifierTrainingConfig:
    """The paper's, of Qwen2.5-VL-3B (its published training: 10,080 steps, learning rate 2e-6); layers are recomputed,
    so that 80 GB do."""
    return VerifierTrainingConfig(
        model=RewardModelConfig("Qwen/Qwen2.5-VL-3B-Instruct", "verify", rank=64, train_vision=True, device="cuda"),
        loop=LoopConfig(steps=10_080, batch_size=32, micro_batch=4),
        optimizer=OptimizerConfig("adamw", 2e-6, warmup_steps=500, max_gradient_norm=1.0),
        recompute=True,
    )


def reflector_training() -> ReflectorTrainingConfig:
    """A LoRA on Qwen2.5-VL-7B, with hyperparameters common for one (the paper trains all of the model, which one GPU
    cannot hold: `ReflectorTrainingConfig`)."""
    return ReflectorTrainingConfig(
        model=ReflectorConfig(
            "Qwen/Qwen2.5-VL-7B-Instruct", "reflect", "compare", right_share=0.1, rank=64, device="cuda"
        ),
        loop=LoopConfig(steps=5000, batch_size=32, micro_batch=2),
        optimizer=OptimizerConfig("adamw", 1e-4, warmup_steps=150, decay_steps=5000, max_gradient_norm=1.0),
    )


def condenser_training() -> CondenserTrainingConfig:
    """A LoRA on Qwen2.5-VL-7B, with the reflector's hyperparameters: the paper states none for its condenser."""
    return CondenserTrainingConfig(
        model=CondenserConfig("Qwen/Qwen2.5-VL-7B-Instruct", "condense", rank=64, device="cuda"),
        loop=LoopConfig(steps=2000, batch_size=32, micro_batch=8),
        optimizer=OptimizerConfig("adamw", 1e-4, warmup_steps=150, decay_steps=2000, max_gradient_norm=1.0),
    )


def dual_process() -> DualProcessConfig:
    """FLUX.1-dev at a random one of 28 steps, on one 80 GB GPU (Dual-Process Distillation, §4.1); guidance, shift and
    text length as published (g-luo/dual_process, configs/pipe/dev.yaml and its loader)."""
    drawn = FluxGeneratorConfig(num_steps=28, guidance=0.0, shift=3.0, size_px=512, text_lengths=(512,))
    return distillation(DenoiserConfig(flux=drawn))


def distill_workers() -> Workers:
    """A GPU each."""
    return ON_GPU


def distillation(generator: DenoiserConfig) -> DualProcessConfig:
    """The paper's hyperparameters (§4.1) and, where it states none, the published ones (configs/base.yaml); what is
    neither stands beside its value. Images a step, seeds and answers: docs/dual_process.md."""
    return DualProcessConfig(
        generator=generator,
        teacher=teacher(),
        rank=16,
        alpha_per_rank=5.0,  # the paper's; the published code's is 2.5 in effect: weight 5 on peft's alpha of 8
        lora_targets=(),  # the published ones of FLUX
        steps=100,
        batch_size=1,
        num_seeds=100,
        first_seed=100,
        learning_rate=5e-5,
        warmup_steps=0,
        weight_decay=0.0,
        max_gradient_norm=1.0,
        earliest_step=0,
        gradient_steps=1,
        keep_weight=0.0,
        keep_prompts=(),
        stop_probability=0.95,  # ours: the paper takes "up to" 100 steps, the published code all
        stop_after=10,
        hopeless_probability=0.02,  # ours
        hopeless_after=20,
        min_probability=0.5,  # ours
        min_rise=0.02,
        num_evaluated=16,  # published: 5
        evaluation_seed=0,
        gradient_checkpointing=True,  # published: no. It changes no number
    )


def teacher() -> TeacherConfig:
    """Qwen2.5-VL-7B, the paper's for visual prompts (for commonsense: HuggingFaceM4/idefics2-8b); its activations are
    recomputed."""
    return TeacherConfig(
        dtype="bfloat16",
        question_postfix="Answer with Yes or No.",
        pixel_range="min-max",
        gradient_checkpointing=True,
        device="cuda",
    )
