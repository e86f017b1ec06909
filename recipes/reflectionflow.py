"""reflectionflow: the paper's search with the paper's own published weights, on GenEval (ReflectionFlow §4: .91)."""

from __future__ import annotations

from dataclasses import replace

from inference.corrector import CorrectorConfig
from inference.critic import CriticConfig
from inference.flux.corrector import FluxCorrectorConfig
from inference.generator import GeneratorConfig
from inference.judges.judge import JudgeConfig
from inference.requirements.atom_critic import AtomCriticConfig
from inference.verifier import VerifierConfig
from inference.vlm.critic import VlmCriticConfig
from inference.vlm.trained_verifier import TrainedVerifierConfig
from inference.vlm.vlm import VlmConfig
from pipelines.driver import RunOptions
from pipelines.model_costs import flux_memory, verifier_gib, vllm_memory
from pipelines.placement import Cluster
from pipelines.search_job import SearchJobConfig
from recipes import flux


def generator() -> GeneratorConfig:
    """FLUX.1-dev, 1024 px, 30 steps, guidance 3.5 (the published search's configuration)."""
    return flux.generator()


def vlm() -> VlmConfig:
    """Who refines prompts: Qwen2.5-VL-7B under vLLM. The paper asked GPT-4o; `--vlm.model "" --vlm.endpoint-model
    gpt-4o-2024-11-20 --vlm.base-url https://api.openai.com/v1` asks it too."""
    return flux.vlm()


def served() -> VlmConfig:
    """As `vlm`, beside FLUX and the verifier on a GPU of 80 GB."""
    job = flux.search()
    drawn = job.tools.generator.flux
    assert drawn is not None
    beside = flux_memory(drawn)[0] + (verifier_gib(VerifierConfig(kinds=("trained",))) or 0.0)
    return replace(job.vlm, gpu_memory=vllm_memory(cluster().gpu.memory_gib, beside))


def reflector_vlm() -> VlmConfig:
    """How the published reflector is served and sampled: temperature .95, top-p .7, top-k 50, 1,024 new tokens, images
    within 768 x 768 pixels (the defaults of the server that the published code runs it in)."""
    return replace(
        served(),
        model="diffusion-cot/Reflection-Generator/infer/30000",
        temperature=0.95,
        top_p=0.7,
        top_k=50,
        max_new_tokens=1024,
        max_image_pixels=768 * 768,
        extra_body='{"repetition_penalty": 1.0}',  # that server's; the model's own would be 1.05
    )


def search() -> SearchJobConfig:
    """Width 2, depth 16, four images of each of GenEval's 553 prompts; the published corrector, reflector and
    verifier. The paper's best table chooses by NVILA, whose code is its own and is not run unasked:
    `--tools.verifier.kinds nvila --tools.verifier.nvila.trust-remote-code`."""
    job = flux.search()
    reflector = reflector_vlm()
    critic = VlmCriticConfig(
        reflector=reflector.model,
        reflector_vlm=reflector,
        reflect="reflect_scored",
        reflector_prompt="",
        refine="refine",
        keep_words=False,
        max_attempts=2,
    )
    trained = TrainedVerifierConfig(model="diffusion-cot/Image-Verifier", base="Qwen/Qwen2.5-VL-3B-Instruct")
    tools = replace(
        job.tools,
        corrector=CorrectorConfig("flux", FluxCorrectorConfig("diffusion-cot/FLUX-Corrector")),
        critic=CriticConfig("vlm", critic, AtomCriticConfig(max_told=2, sure=4.0, reflect="reflect_failing")),
        verifier=replace(job.tools.verifier, kinds=("trained",), trained=trained),
    )
    return replace(job, images_per_prompt=4, vlm=served(), tools=tools)


def judge() -> JudgeConfig:
    """GenEval's."""
    return flux.judge()


def run_options() -> RunOptions:
    """On Ray, where the VLMs are served once for all workers."""
    return replace(flux.run_options(), runtime="ray")


def cluster() -> Cluster:
    """One machine with eight H100s."""
    return flux.cluster()
