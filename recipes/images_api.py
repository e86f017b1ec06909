"""images-api: servers draw and correct, as vLLM-Omni, SGLang Diffusion and OpenAI do, and a VLM behind an address looks
at the images. Models are Qwen's, all Apache-2.0. Every address is a flag; none is named here."""

from __future__ import annotations

from dataclasses import replace

from inference.corrector import CorrectorConfig
from inference.generator import GeneratorConfig
from inference.grounding.grounded_sam import GroundedSamConfig
from inference.images_api.corrector import ImagesApiCorrectorConfig
from inference.images_api.generator import ImagesApiGeneratorConfig
from inference.judges.judge import JudgeConfig
from inference.judges.questions_judge import QuestionsJudgeConfig
from inference.requirements.atom_verifier import AtomVerifierConfig
from inference.rewards.reward import RewardConfig
from inference.vlm.vlm import VlmConfig
from pipelines.driver import RunOptions
from pipelines.jobs import DatasetConfig
from pipelines.placement import Cluster
from pipelines.search_job import SearchJobConfig
from pipelines.stage import Workers
from recipes import flux

TO_BE_NAMED = "http://to-be-named.invalid/v1"
ASKS = Workers(count=1, cpus=2.0)


def generator() -> GeneratorConfig:
    """Qwen-Image at 1024 px: 50 steps, true guidance 4.0 (its model card)."""
    server = ImagesApiGeneratorConfig(
        base_url=TO_BE_NAMED,
        model="Qwen/Qwen-Image",
        num_steps=50,
        guidance=None,
        true_cfg_scale=4.0,
        negative_prompt=" ",
        size_px=1024,
        concurrency=8,
        timeout_s=600.0,
    )
    return GeneratorConfig("images-api", flux=None, images_api=server)


def _corrector() -> CorrectorConfig:
    """Qwen-Image-Edit, on a server of its own: 40 steps, true guidance 4.0 (its model card), told the reflection."""
    server = ImagesApiCorrectorConfig(
        base_url=TO_BE_NAMED,
        model="Qwen/Qwen-Image-Edit-2511",
        num_steps=40,
        guidance=None,
        true_cfg_scale=4.0,
        negative_prompt=" ",
        concurrency=8,
        timeout_s=600.0,
        template="edit",
    )
    return CorrectorConfig("images-api", flux=None, images_api=server)


def vlm() -> VlmConfig:
    """Qwen3-VL-8B behind an address, such as a vLLM's."""
    return VlmConfig(
        kind="endpoint", model="", endpoint_model="Qwen/Qwen3-VL-8B-Instruct", base_url=TO_BE_NAMED, concurrency=32
    )


def grounding() -> GroundedSamConfig:
    """As flux's: it looks at images here."""
    return flux.grounding()


def rewards() -> tuple[RewardConfig, ...]:
    """As flux's."""
    return flux.rewards()


def judge() -> JudgeConfig:
    """GenEval's. Questions go to a Qwen2.5-VL-7B behind an address of its own, since Qwen3-VL-8B chooses."""
    asked = replace(vlm(), endpoint_model="Qwen/Qwen2.5-VL-7B-Instruct")
    return replace(flux.judge(), questions=QuestionsJudgeConfig(asked, prompt="one_word"))


def dataset() -> DatasetConfig:
    """As flux's, drawn elsewhere: what looks at images has the GPU."""
    base = flux.dataset()
    return replace(
        base,
        num_prompts=200,
        vlm=vlm(),
        generate=replace(base.generate, generator=generator(), workers=ASKS),
        condense=replace(base.condense, workers=ASKS),
        caption=replace(base.caption, workers=ASKS),
        reflect=replace(base.reflect, workers=ASKS),
        filter=replace(base.filter, workers=ASKS),
    )


def search() -> SearchJobConfig:
    """ReflectionFlow §4 with an editor in place of the trained corrector, which goes on from a chain's best image and
    starts afresh after four edits, as in `qwen_image`; rounds are questions to servers alone."""
    base = flux.search()
    asks_all = AtomVerifierConfig(grounding=None, other_classes=(), unsure=(0.35, 0.7), prompt="one_word")
    verifier = replace(base.tools.verifier, atoms=asks_all)  # no detector: every requirement is a question
    tools = replace(base.tools, generator=generator(), corrector=_corrector(), verifier=verifier)
    search = replace(base.search, carry="best", max_edits=4)
    judged = replace(base.judge, judge=judge())
    return replace(base, images_per_prompt=1, vlm=vlm(), search=search, tools=tools, workers=ASKS, judge=judged)


def run_options() -> RunOptions:
    """Units are checked here while others are drawn there."""
    return RunOptions(schedule="streaming")


def cluster() -> Cluster:
    """One GPU, for what looks at images."""
    return Cluster(gpus=1, gpu_type="rtx4090")
