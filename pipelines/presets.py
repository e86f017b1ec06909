"""Presets: functions that return a configuration. They differ in weights, sizes and hyperparameters, never in code."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from inference.flux.generator import production_flux
from inference.grounding.detector import GroundingDinoConfig
from inference.grounding.grounded_sam import GroundedSamConfig
from inference.grounding.segmenter import SamConfig
from inference.judges.judge import JudgeConfig
from inference.judges.mask2former_judge import Mask2FormerJudgeConfig
from inference.rewards.presets import published_rewards
from inference.search_tools import SearchToolsConfig, SearchVerifierConfig
from inference.vlm.critic import CriticConfig
from inference.vlm.prompted_verifier import PromptedVerifierConfig
from inference.vlm.verifier import VerifierConfig
from inference.vlm.vlm import VlmConfig
from pipelines.driver import RunOptions
from pipelines.jobs import DatasetConfig
from pipelines.pack_shards import PackShardsConfig
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
from schemas.errors import InputError


@dataclass(frozen=True)
class Preset:
    """What is made, and how it is computed unless flags say otherwise."""

    dataset: DatasetConfig
    options: RunOptions = field(default_factory=RunOptions)


def micro() -> Preset:
    """The shipped micro family: everything on two CPU cores."""
    return Preset(DatasetConfig())


def flux() -> Preset:
    """FLUX.1-dev (1024 px, 30 steps, guidance 3.5, bf16), GroundingDINO Swin-T and SAM ViT-H, CLIP, HPSv2.1 and
    PickScore, Qwen2.5-VL-7B under vLLM, on data-centre GPUs.

    A unit is 4 prompts, 40 images: about five minutes of one H100, so little is lost with a worker. 160 units make a
    shard of some 500 pairs when two prompts in five give their two pairs.

    Staged, since it is right on any number of GPUs: each stage has them all. `plan` says when streaming is as fast.
    """
    ground = GroundedSamConfig(
        GroundingDinoConfig(
            model="groundingdino_swint_ogc.pth",
            backend="groundingdino-py",
            text_encoder="google-bert/bert-base-uncased",
            batch_size=4,
            text_length=64,
            device="cuda",
        ),
        # One image at a time: ViT-H's global attention takes 4 GiB an image, and a batch gains nothing.
        SamConfig(model="sam_vit_h_4b8939.pth", device="cuda", image_batch=1, box_batch=16),
    )
    vlm = VlmConfig(
        model="Qwen/Qwen2.5-VL-7B-Instruct",
        serve="vllm",
        max_new_tokens=768,
        constrain_json=True,
        dtype="bfloat16",
        concurrency=64,
        vllm_arguments=("--max-model-len", "8192"),
        device="cuda",
    )
    on_gpu = Workers(count=0, cpus=2.0, gpus=1.0)
    dataset = DatasetConfig(
        num_prompts=2000,
        vocabulary="everyday",
        closed_vocabulary=False,
        unit_size=4,
        generate=GenerateCandidatesConfig(
            generator=replace(production_flux(), compile="blocks"), workers=Workers(count=0, cpus=2.0, gpus=1.0)
        ),
        ground=GroundObjectsConfig(ground, workers=Workers(count=0, cpus=2.0, gpus=0.25)),
        select=SelectPairsConfig(workers=Workers(count=2, cpus=1.0)),
        rewards=ScoreRewardsConfig(published_rewards(), workers=Workers(count=0, cpus=2.0, gpus=0.25)),
        vlm=vlm,
        condense=CondensePromptsConfig(prompt="condense", max_new_words=0.2, workers=on_gpu),
        caption=CaptionImagesConfig(prompt="caption", workers=on_gpu),
        reflect=WriteReflectionsConfig(prompt="compare", reflector_prompt="reflect", image_px=768, workers=on_gpu),
        filter=FilterPairsConfig(VerifierConfig(prompt="verify"), workers=on_gpu),
        pack=PackShardsConfig(units_per_shard=160),
    )
    return Preset(dataset, RunOptions(schedule="staged"))


def flux_24gb() -> Preset:
    """The same on one consumer card: the transformer's weights in fp8, models in main memory while they wait, one stage
    after the other."""
    base = flux()
    dataset = base.dataset
    generator = replace(dataset.generate.generator, quantization="fp8", offload="model", compile="none")
    one = Workers(count=1, cpus=2.0, gpus=1.0)
    return replace(
        base,
        dataset=replace(
            dataset,
            num_prompts=200,
            generate=replace(dataset.generate, generator=generator, workers=one),
            ground=replace(dataset.ground, workers=one),
        ),
    )


def micro_search() -> tuple[SearchJobConfig, RunOptions]:
    """The shipped micro family on its own benchmark."""
    return SearchJobConfig(), RunOptions()


def flux_search() -> tuple[SearchJobConfig, RunOptions]:
    """ReflectionFlow §4: FLUX.1-dev, width 2, depth 16, Qwen2.5-VL as verifier and critic, on GenEval's prompts."""
    dataset = flux().dataset
    tools = SearchToolsConfig(
        generator=dataset.generate.generator,
        corrector="",  # none is published: `--tools.corrector` names one's own
        critic=CriticConfig(reflect="reflect_scored", refine="refine", keep_words=False),
        verifier=SearchVerifierConfig(
            vlm=VerifierConfig(prompt="verify"),
            prompted=PromptedVerifierConfig(prompt="judge"),
            rules=dataset.ground.grounded_sam,
            rewards=published_rewards(),
        ),
    )
    # vLLM shares the GPU with FLUX's 34 GB.
    vlm = replace(dataset.vlm, vllm_arguments=(*dataset.vlm.vllm_arguments, "--gpu-memory-utilization", "0.35"))
    job = SearchJobConfig(
        prompts="evaluation_metadata.jsonl",
        images_per_prompt=4,
        unit_size=4,
        closed_vocabulary=False,
        vlm=vlm,
        tools=tools,
        workers=Workers(count=0, cpus=4.0, gpus=1.0),
        judge=JudgeCandidatesConfig(
            JudgeConfig("mask2former", mask2former=Mask2FormerJudgeConfig(device="cuda")),
            workers=Workers(count=0, cpus=2.0, gpus=0.25),
        ),
    )
    return job, RunOptions(schedule="staged")


SEARCH_PRESETS: dict[str, Callable[[], tuple[SearchJobConfig, RunOptions]]] = {
    "micro": micro_search,
    "flux": flux_search,
}


def load_search_preset(name: str) -> tuple[SearchJobConfig, RunOptions]:
    """InputError for an unknown name."""
    if name not in SEARCH_PRESETS:
        raise InputError(f"unknown preset {name!r}", field="--preset", expected=" or ".join(SEARCH_PRESETS))
    return SEARCH_PRESETS[name]()


PRESETS: dict[str, Callable[[], Preset]] = {"micro": micro, "flux": flux, "flux-24gb": flux_24gb}


def load_preset(name: str) -> Preset:
    """InputError for an unknown name."""
    if name not in PRESETS:
        raise InputError(f"unknown preset {name!r}", field="--preset", expected=" or ".join(PRESETS))
    return PRESETS[name]()
