"""qwen-image: Qwen-Image draws, Qwen-Image-Edit corrects, Qwen3-VL judges and reflects: all under Apache-2.0."""

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
from pipelines.model_costs import vllm_memory
from pipelines.pipeline_memory import diffusers_memory
from pipelines.placement import Cluster
from pipelines.search_job import SearchJobConfig
from recipes import flux

EDITOR = "Qwen/Qwen-Image-Edit-2511"


def generator() -> GeneratorConfig:
    """Qwen-Image at 1024 px in bfloat16: 50 steps with true guidance 4, its class's and its model card's, two passes
    each. A GPU of 80 GB holds it whole."""
    drawn = DiffusersGeneratorConfig(
        "Qwen/Qwen-Image", steps=50, true_cfg_scale=4.0, size_px=1024, batch_size=1, dtype="bfloat16"
    )
    return GeneratorConfig("diffusers", None, diffusers=drawn)


def corrector() -> CorrectorConfig:
    """Qwen-Image-Edit-2511, told the reflection: 40 steps with true guidance 4 (its model card). While the generator
    draws it waits in main memory, and the other way round: both together are larger than 80 GB."""
    editor = EditorCorrectorConfig(
        EDITOR, template="edit", steps=40, true_cfg_scale=4.0, dtype="bfloat16", offload="model"
    )
    return CorrectorConfig("editor", None, editor=editor)


def grounding() -> GroundedSamConfig:
    """As flux's."""
    return flux.grounding()


def rewards() -> tuple[RewardConfig, ...]:
    """As flux's."""
    return flux.rewards()


def vlm() -> VlmConfig:
    """Qwen3-VL-8B under vLLM."""
    return replace(flux.vlm(), model="Qwen/Qwen3-VL-8B-Instruct")


def judge() -> JudgeConfig:
    """GenEval's. Questions go to flux's VLM, Qwen2.5-VL-7B, since Qwen3-VL-8B chooses."""
    return replace(flux.judge(), questions=QuestionsJudgeConfig(flux.vlm(), prompt="one_word"))


def run_options() -> RunOptions:
    """One stage after the other."""
    return flux.run_options()


def cluster() -> Cluster:
    """One machine with eight H100s."""
    return flux.cluster()


def dataset() -> DatasetConfig:
    """As flux's, of two prompts a unit: an image takes several times as long."""
    base = flux.dataset()
    return replace(base, unit_size=2, generate=replace(base.generate, generator=generator()), vlm=vlm())


def search() -> SearchJobConfig:
    """Two chains of eight rounds on GenEval's prompts. A chain starts afresh after four edits of one image, since
    editors wear an image down. A vLLM gets what generator and editor leave of a GPU while they take turns on it."""
    base, drawn = flux.search(), generator()
    assert drawn.diffusers is not None
    waiting = replace(drawn, diffusers=replace(drawn.diffusers, offload="model"))
    assert waiting.diffusers is not None
    beside = diffusers_memory(waiting.diffusers)[0] or 0.0
    shared, judged = vllm_memory(cluster().gpu.memory_gib, beside), judge()
    assert judged.questions is not None
    asked = replace(judged.questions, vlm=replace(judged.questions.vlm, gpus=0.4, gpu_memory=shared))
    return replace(
        base,
        vlm=replace(vlm(), gpus=0.4, gpu_memory=shared),
        search=SearchConfig(width=2, depth=8, strategy="noise+prompt+reflection", carry="best", max_edits=4),
        tools=replace(base.tools, generator=waiting, corrector=corrector()),
        judge=replace(base.judge, judge=replace(judged, questions=asked)),
    )
