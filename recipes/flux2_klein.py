"""flux2-klein: FLUX.2-klein 4B (Apache-2.0) draws and corrects, one model loaded once, on one card of 24 GB."""

from __future__ import annotations

from dataclasses import replace

from inference.corrector import CorrectorConfig
from inference.editors.editor import EditorCorrectorConfig
from inference.generator import GeneratorConfig
from inference.generators.diffusers_generator import DiffusersGeneratorConfig
from inference.grounding.grounded_sam import GroundedSamConfig
from inference.judges.judge import JudgeConfig
from inference.judges.questions_judge import QuestionsJudgeConfig
from inference.rewards.reward import RewardConfig
from inference.search import SearchConfig
from inference.vlm.vlm import VlmConfig
from pipelines.driver import RunOptions
from pipelines.jobs import DatasetConfig
from pipelines.placement import Cluster
from pipelines.search_job import SearchJobConfig
from pipelines.stage import Workers
from recipes import flux

VLM = "Qwen/Qwen3-VL-8B-Instruct"
ONE = Workers(count=1, cpus=2.0, gpus=1.0)


def generator() -> GeneratorConfig:
    """FLUX.2-klein 4B at 1024 px in bfloat16: four steps without guidance, as it is distilled (its model card)."""
    drawn = DiffusersGeneratorConfig(
        "black-forest-labs/FLUX.2-klein-4B", steps=4, size_px=1024, batch_size=1, dtype="bfloat16"
    )
    return GeneratorConfig("diffusers", None, diffusers=drawn)


def corrector() -> CorrectorConfig:
    """The generator itself, told the reflection."""
    return CorrectorConfig("editor", None, editor=EditorCorrectorConfig(template="edit"))


def grounding() -> GroundedSamConfig:
    """As flux's."""
    return flux.grounding()


def rewards() -> tuple[RewardConfig, ...]:
    """As flux's."""
    return flux.rewards()


def vlm() -> VlmConfig:
    """Qwen3-VL-8B under vLLM, which has the card to itself while it answers."""
    return replace(flux.vlm(), model=VLM)


def judge() -> JudgeConfig:
    """GenEval's. Questions go to flux's VLM, Qwen2.5-VL-7B, since Qwen3-VL-8B chooses."""
    return replace(flux.judge(), questions=QuestionsJudgeConfig(flux.vlm(), prompt="one_word"))


def run_options() -> RunOptions:
    """One stage after the other."""
    return flux.run_options()


def cluster() -> Cluster:
    """One RTX 4090."""
    return Cluster(gpus=1, gpu_type="rtx4090")


def dataset() -> DatasetConfig:
    """As flux's, one worker a stage, one stage after the other."""
    base = flux.dataset()
    return replace(
        base,
        num_prompts=200,
        generate=replace(base.generate, generator=generator(), workers=ONE),
        ground=replace(base.ground, workers=ONE),
        vlm=vlm(),
    )


def search() -> SearchJobConfig:
    """Two chains of eight rounds on GenEval's prompts; a chain starts afresh after four edits of one image. The VLM has
    no room beside the model that draws: it is asked at an address, such as a vLLM on another card (`vllm serve
    Qwen/Qwen3-VL-8B-Instruct`), and so is the verifier."""
    base = flux.search()
    return replace(
        base,
        vlm=replace(flux.vlm(), kind="endpoint", model="", endpoint_model=VLM, base_url="http://127.0.0.1:8000/v1"),
        search=SearchConfig(width=2, depth=8, strategy="noise+prompt+reflection", carry="best", max_edits=4),
        tools=replace(base.tools, generator=generator(), corrector=corrector()),
        workers=ONE,
        judge=replace(base.judge, judge=judge(), workers=ONE),
    )
