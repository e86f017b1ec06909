"""What models take on one worker, from stated figures: seconds for each item, and memory on a GPU. A kind of model that
stands in no figure is unknown, and `plan` says so."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean

from inference.critic import CriticConfig
from inference.editors.editor import EditorCorrectorConfig
from inference.editors.editor_classes import EDITOR_CLASSES
from inference.flux.generator import FluxGeneratorConfig
from inference.generator import GeneratorConfig
from inference.generators.diffusers_generator import DiffusersGeneratorConfig
from inference.generators.pipeline_classes import PIPELINE_CLASSES, PipelineClass
from inference.grounding.grounded_sam import GroundedSamConfig
from inference.grounding.grounding_dino import GroundingDinoConfig
from inference.grounding.sam import SamConfig
from inference.judges.judge import JudgeConfig
from inference.likeness.likeness import LikenessConfig
from inference.model_store import resolve_model
from inference.rewards.clip_reward import ClipRewardConfig
from inference.rewards.hpsv3 import Hpsv3Config
from inference.rewards.reward import RewardConfig
from inference.rewards.vqa_score import VqaScoreConfig
from inference.search import Strategy
from inference.search_tools import SearchToolsConfig
from inference.verifier import VerifierConfig
from inference.vlm.vlm import VlmConfig
from pipelines import stated_figures as stated
from pipelines.pipeline_memory import diffusers_memory, pipeline_size
from pipelines.stage import UNKNOWN, StageCosts
from pipelines.stated_figures import GIB, Gpu
from pipelines.vlm_sizes import vlm_weights_gib
from schemas.configuration import chosen_kind, model_names
from schemas.errors import InputError, MissingWeightsError
from schemas.image_size import ImageSize

HEADROOM = 0.9
"""Models share a GPU when they are not expected to fill more of it than this: the figures are estimates."""
CPU_SOURCE = "stated: models of a few million parameters on two cores of a server CPU without AMX"

TINY_VLM_SECONDS = 0.01
"""Of a short answer of a VLM of a few million parameters, many asked together (measured: docs/findings/search_cost.md,
8 ms a reflection, 7 ms a yes)."""
DRAWN_ELSEWHERE = StageCosts(None, "drawn elsewhere; seconds unknown: run a pilot, then `plan --run` on it")
"""By a server, which takes no memory here."""


def cpu_costs(seconds: float) -> StageCosts:
    """Of work that is done on CPU cores."""
    return StageCosts(seconds, CPU_SOURCE)


def vlm_costs(seconds: float, cpu_seconds: float, vlm: VlmConfig | None, gpu: Gpu | None) -> StageCosts:
    """Of one question. seconds: assumed of a 7B model under vLLM; cpu_seconds: of a tiny one on two cores."""
    if gpu is None:
        return cpu_costs(cpu_seconds)
    source = "stated: an assumption; measure it with a pilot run"
    if vlm is not None and vlm.endpoint_model:
        return StageCosts(seconds, source)
    return StageCosts(seconds, source, *vllm_gib(vlm))


def vllm_gib(vlm: VlmConfig | None, cache_gib: float = stated.VLM_CACHE_GIB) -> tuple[float, str]:
    """(GiB that a vLLM needs on a GPU, how that comes about); None: of a 7B model's in bfloat16."""
    weights, source = vlm_weights_gib(*((vlm.model, vlm.dtype) if vlm is not None else ("", "bfloat16")))
    gib = weights + cache_gib + stated.CUDA_CONTEXT_GIB
    return gib, f"derived: {weights:.1f} weights ({source}) + {cache_gib} for the cache (allowance)"


def vllm_memory(available_gib: float, others_gib: float = 0.0) -> float:
    """The share of a GPU's memory for a vLLM beside others; alone it gets what models may fill at all."""
    return math.floor(100 * (HEADROOM - others_gib / available_gib)) / 100


def reward_costs(rewards: Sequence[RewardConfig], gpu: Gpu | None) -> StageCosts:
    """Of one image in all of them; stated for CLIP, HPSv2.1 and PickScore alone."""
    if not all(isinstance(chosen_kind(reward), ClipRewardConfig) for reward in rewards):
        return UNKNOWN if gpu is None else StageCosts(None, UNKNOWN.source, *rewards_gib(rewards))
    if gpu is None:
        return cpu_costs(0.005)
    source = "stated: an assumption; measure it with a pilot run"
    return StageCosts(stated.REWARD_SECONDS, source, *rewards_gib(rewards))


def likeness_costs(likeness: LikenessConfig | None, gpu: Gpu | None) -> StageCosts:
    """Of making one prompt's pairs. likeness: None where nobody measures it."""
    if likeness is None:
        return cpu_costs(0.0002)
    if likeness.kind == "pixels" or gpu is None:
        return cpu_costs(0.03)
    on_gpu = chosen_kind(likeness).device != "cpu"
    return StageCosts(None, UNKNOWN.source, None if on_gpu else 0.0)


def rewards_gib(rewards: Sequence[RewardConfig]) -> tuple[float | None, str]:
    """(GiB on a GPU, how that comes about); None where a model's files are not here to be looked at. VLMs elsewhere are
    counted where they are served."""
    chosen = [chosen_kind(reward) for reward in rewards]
    allowance = stated.REWARDS_WORKING_GIB + stated.CUDA_CONTEXT_GIB
    if all(isinstance(one, ClipRewardConfig) for one in chosen):
        return stated.REWARDS * 2 / GIB + allowance, "derived: ViT-H twice and ViT-L in float16 + allowance for a batch"
    here = [one for one in chosen if not (isinstance(one, VqaScoreConfig) and one.vlm and one.vlm.is_elsewhere)]
    # HPSv3's file holds the whole model: of its base only the small files are read.
    names = [name for one in here for name in ([one.model] if isinstance(one, Hpsv3Config) else model_names(one))]
    weights = weights_gib(names)
    if weights is None:
        return None, UNKNOWN.source
    return weights + allowance, f"derived: {weights:.1f} weights (bytes of their files) + allowance for a batch"


def weights_gib(names: Iterable[str]) -> float | None:
    """GiB of models' files of weights, each as it lies there; None where one is not on this machine."""
    total = 0
    for name in dict.fromkeys(names):
        try:
            place = resolve_model(name)
        except MissingWeightsError:
            return None
        files = [path for path in place.rglob("*") if path.is_file()] if place.is_dir() else [place]
        total += sum(path.stat().st_size for path in files if path.suffix in (".safetensors", ".bin", ".pt", ".pth"))
    return total / GIB


def generator_costs(generator: GeneratorConfig, gpu: Gpu | None) -> StageCosts:
    """Of one image."""
    chosen = generator.chosen
    if generator.is_elsewhere:
        return DRAWN_ELSEWHERE
    if isinstance(chosen, DiffusersGeneratorConfig):
        return diffusers_costs(chosen, gpu, generator.all_sizes)
    if not isinstance(chosen, FluxGeneratorConfig):
        return UNKNOWN
    if gpu is None:
        return cpu_costs(0.05)
    share = pass_tflop(generator, chosen) / stated.FLUX_PASS_TFLOP
    passes = chosen.denoiser_passes_per_image * gpu.pass_seconds * share
    moving = stated.OFFLOAD_SECONDS[chosen.offload] / chosen.batch_size
    slower = stated.QUANTIZATION_SLOWDOWN[chosen.quantization]
    if chosen.compile == "blocks":
        slower = stated.COMPILED_SHARE.get(chosen.quantization, slower)
    decode = stated.DECODE_PASSES * gpu.pass_seconds * image_pixels(generator) / 1024**2
    how = f"{chosen.denoiser_passes_per_image} passes"
    how += " compiled" if chosen.compile == "blocks" else ""
    how += f" x {slower:.2f}" if slower != 1 else ""
    how += f" ({chosen.quantization})" if chosen.quantization != "none" else ""
    how += f" + {decode:.2f} s decoding" + (f" + {moving:.2f} s offload" if moving else "")
    how += f", mean of {len(generator.sizes)} sizes" if len(generator.sizes) > 1 else ""
    # An image is packed while the next is drawn: that takes time only where drawing takes less.
    seconds = max(passes * slower + decode + moving, stated.PNG_SECONDS)
    return StageCosts(seconds, f"{gpu.pass_source}; here {how}", *flux_memory(chosen, generator.all_sizes))


def diffusers_costs(chosen: DiffusersGeneratorConfig, gpu: Gpu | None, sizes: Sequence[ImageSize]) -> StageCosts:
    """Of one image: memory, passes and time, as far as folder or hub id say; the rest only a pilot."""
    try:
        passes = chosen.denoiser_passes_per_image
    except InputError:
        if not chosen.model:
            raise
        memory = (0.0, "") if gpu is None else diffusers_memory(chosen, _largest(sizes))
        return StageCosts(None, UNKNOWN.source, *memory)
    said = f"{passes} passes an image ({chosen.num_steps} steps); "
    if gpu is None:
        return StageCosts(None, said + UNKNOWN.source, 0.0)
    name = chosen.planned.class_name or ""
    each, source = _pass_seconds(chosen.model, PIPELINE_CLASSES.get(name), gpu, fmean(size.pixels for size in sizes))
    seconds = None if each is None else passes * each + stated.OFFLOAD_SECONDS[chosen.offload] / chosen.batch_size
    return StageCosts(seconds, said + source, *diffusers_memory(chosen, _largest(sizes)))


def _pass_seconds(
    model: str, known: PipelineClass | None, gpu: Gpu, pixels: float, images: int = 1
) -> tuple[float | None, str]:
    """(seconds of one pass of a pipeline's denoiser at most, how that comes about); None for one that nobody has looked
    at. images: of `pixels`, that it sees at once: an editor sees two."""
    size = pipeline_size(model)
    if known is None or known.token_px is None or size is None:
        return None, UNKNOWN.source
    tokens = images * pixels / known.token_px**2 + (known.text_length or stated.TEXT_TOKENS)
    tflop = 2 * size[0].denoiser * tokens / 1e12
    rate = stated.FLUX_PASS_TFLOP / gpu.pass_seconds
    billions = size[0].denoiser / 1e9
    return (
        tflop / rate,
        f"derived: {tflop / rate:.2f} s a pass at most ({billions:.1f} G weights x {tokens:.0f} tokens, at the "
        f"{rate:.0f} TFLOP/s that FLUX reaches)",
    )


def _largest(sizes: Sequence[ImageSize]) -> int:
    return max(size.pixels for size in sizes)


def pass_tflop(generator: GeneratorConfig, flux: FluxGeneratorConfig, condition_share: float = 0.0) -> float:
    """Of one forward pass, in the mean of the sizes; condition_share: side of the flawed image as it is shown, in that
    of the drawn one."""
    sizes, text = generator.all_sizes, flux.text_lengths[-1]
    return fmean(stated.flux_pass_tflop(s, text, round(condition_share * math.sqrt(s.pixels))) for s in sizes)


def flux_memory(flux: FluxGeneratorConfig, sizes: Sequence[ImageSize] = ()) -> tuple[float, str]:
    """(GiB on a GPU at its peak, how that comes about) of the FLUX pipeline; of several sizes the largest counts."""
    full = 4 if flux.dtype == "float32" else 2
    kept = {"none": stated.FLUX_TRANSFORMER, "fp8_dynamic": stated.FLUX_MODULATION}.get(flux.quantization, 0)
    transformer = kept * full + (stated.FLUX_TRANSFORMER - kept)
    t5 = stated.FLUX_T5 * (1 if flux.quantization == "int8" else full)
    others = (stated.FLUX_CLIP + stated.FLUX_VAE) * full
    resident = {
        "none": transformer + t5 + others,
        "model": max(transformer, t5),
        "sequential": 2 * 2**30,  # a few layers at a time
    }[flux.offload]
    largest = max((size.pixels for size in sizes), default=flux.size_px**2)
    working = stated.FLUX_WORKING_GIB * flux.batch_size * largest / 1024**2
    return (
        resident / GIB + working + stated.CUDA_CONTEXT_GIB,
        f"derived: {resident / GIB:.1f} weights ({flux.dtype}, quantization {flux.quantization}, offload "
        f"{flux.offload}) + {working:.1f} at work (stated) + {stated.CUDA_CONTEXT_GIB} CUDA",
    )


def generation_tflop(generator: GeneratorConfig) -> float | None:
    """Arithmetic of one image; None for a kind that stands in no figure."""
    chosen = generator.chosen
    if not isinstance(chosen, FluxGeneratorConfig):
        return None
    return chosen.denoiser_passes_per_image * pass_tflop(generator, chosen)


def image_pixels(generator: GeneratorConfig) -> float:
    """Of one image, in the mean of the sizes."""
    return fmean(size.pixels for size in generator.all_sizes)


def grounding_costs(grounded_sam: GroundedSamConfig, gpu: Gpu | None) -> StageCosts:
    """Of one image in GroundingDINO, SAM and, where it names the colours, CLIP; their peaks of memory do not
    coincide."""
    dino, sam = chosen_kind(grounded_sam.detector), chosen_kind(grounded_sam.segmenter)
    if not (isinstance(dino, GroundingDinoConfig) and isinstance(sam, SamConfig)):
        weights = None if gpu is None else weights_gib(model_names(grounded_sam))
        if weights is None:
            return UNKNOWN
        working = max(stated.DINO_WORKING_GIB * getattr(dino, "batch_size", 1), stated.SAM_WORKING_GIB)
        how = f"derived: {weights:.1f} weights (bytes of their files) + {working:.1f} at work (allowance)"
        return StageCosts(None, UNKNOWN.source, weights + working + stated.CUDA_CONTEXT_GIB, how)
    if gpu is None:
        return cpu_costs(0.05)
    seconds, source = stated.GROUNDING_SECONDS, "stated: GroundingDINO-T 8.37 images/s and SAM ViT-H 0.15 s, on an A100"
    parameters = stated.GROUNDING_DINO_SWIN_T + stated.SAM_VIT_H
    working = max(stated.DINO_WORKING_GIB * dino.batch_size, stated.SAM_WORKING_GIB * sam.image_batch)
    if grounded_sam.color.kind == "clip":
        seconds += stated.COLOR_SECONDS
        source += f"; {stated.COLOR_SECONDS:.2f} s for three objects' colours in CLIP ViT-L (derived)"
        parameters += stated.CLIP_VIT_L
        working = max(working, stated.COLOR_WORKING_GIB)
    weights = parameters * 4 / GIB
    return StageCosts(
        seconds,
        source,
        weights + working + stated.CUDA_CONTEXT_GIB,
        f"derived: {weights:.1f} weights (float32) + {working:.1f} at work (largest of them) "
        f"+ {stated.CUDA_CONTEXT_GIB} CUDA",
    )


def draft_costs(tools: SearchToolsConfig, gpu: Gpu | None, strategy: Strategy) -> StageCosts:
    """Of one image of a search that is corrected: what was said of the image before, drawing, verifying."""
    drawing = generator_costs(tools.generator, gpu)
    if tools.corrector is not None and tools.corrector.editor is not None:
        drawing = _with_editor(drawing, tools.generator, tools.corrector.editor, gpu)
    beside = verifier_gib(tools.verifier)
    memory = None
    if drawing.memory_gib is not None and beside is not None:
        memory = drawing.memory_gib + beside * (gpu is not None)
    how = f"{drawing.memory_source}" + (f" + {beside:.1f} verifier" if beside else "")
    if tools.corrector is not None and tools.corrector.is_elsewhere:
        return StageCosts(None, DRAWN_ELSEWHERE.source, memory, how)
    if drawing.seconds is None:
        return StageCosts(None, drawing.source, memory, how)
    said = critic_seconds(tools.critic, strategy)
    asked = ([said] if said[0] else []) + [verifier_seconds(kind, tools.verifier) for kind in tools.verifier.kinds]
    if gpu is None:
        asks = critic_seconds(tools.critic, strategy, each=TINY_VLM_SECONDS)[0]
        return cpu_costs(drawing.seconds + asks + sum(map(_tiny_verifier_seconds, tools.verifier.kinds)))
    drawn = drawing.seconds * (correction_share(tools) if tools.corrector else 1.0)
    parts = [f"{seconds:.2f} s {what}" for seconds, what in asked]
    source = f"{drawing.source}; here {drawn:.2f} s an image" + (" that is corrected" if tools.corrector else "")
    source += "".join(f" + {part}" for part in parts) + " (assumptions)"
    return StageCosts(drawn + sum(seconds for seconds, _ in asked), source, memory, how)


def _with_editor(
    drawing: StageCosts, generator: GeneratorConfig, editor: EditorCorrectorConfig, gpu: Gpu | None
) -> StageCosts:
    """An edit, with the editor beside the generator, or one model for both. editor: filled in by `beside`."""
    passes, sizes = editor.passes(generator.num_steps), generator.all_sizes
    said = f"an edit is {passes} passes over twice the tokens; "
    if gpu is None:
        return StageCosts(None, said + UNKNOWN.source, drawing.memory_gib)
    kind = EDITOR_CLASSES.get(editor.class_name)
    pixels = fmean(size.pixels for size in sizes)
    each, source = _pass_seconds(editor.model, kind and kind.drawing, gpu, pixels, images=2)
    seconds = None if each is None else passes * each + stated.OFFLOAD_SECONDS[editor.offload] / editor.batch_size
    source = said + source
    if editor.shares(generator.chosen):
        one = f"{drawing.memory_source}; generator and editor are one"
        return StageCosts(seconds, source, drawing.memory_gib, one)
    own, how = diffusers_memory(editor, _largest(sizes))
    if own is None or drawing.memory_gib is None:
        return StageCosts(seconds, source, None, f"{drawing.memory_source}; editor {how}")
    take_turns = editor.offload != "none" and getattr(generator.chosen, "offload", "none") != "none"
    together = max(drawing.memory_gib, own) if take_turns else drawing.memory_gib + own - stated.CUDA_CONTEXT_GIB
    link = "the larger of the generator's" if take_turns else "the generator's"
    how = f"{link} {drawing.memory_gib:.1f} ({drawing.memory_source}) and the editor's {how}"
    return StageCosts(seconds, source, together, how)


def correction_share(tools: SearchToolsConfig) -> float:
    """Seconds of a corrected image, in those of a drawn one: the flawed image is more tokens, at every step."""
    chosen = tools.generator.chosen
    if not isinstance(chosen, FluxGeneratorConfig) or tools.corrector is None:
        return 1.0
    passes = tools.corrector.passes(chosen.num_steps) / chosen.num_steps
    shown = stated.CONDITION_PX / 1024
    return passes * pass_tflop(tools.generator, chosen, shown) / pass_tflop(tools.generator, chosen)


def critic_seconds(critic: CriticConfig | None, strategy: Strategy, each: float = 0.0) -> tuple[float, str]:
    """Of what is said of one image, and in words; 0 where nothing is. each: of every question to the VLM, else as it is
    stated. The critic `atoms` asks only where it does not know."""
    if critic is None or strategy == "noise":
        return 0.0, ""
    refines = "prompt" in strategy
    share = stated.ATOMS_ASK_SHARE if critic.kind == "atoms" else 1.0
    seconds = share * (each or stated.REFLECT_SECONDS) + refines * (each or stated.CAPTION_SECONDS)
    what = "a reflection" if share == 1.0 else f"a reflection of {share:.0%} of images"
    return seconds, what + (" and a refined prompt" if refines else "")


def verifier_seconds(kind: str, verifier: VerifierConfig) -> tuple[float, str]:
    """Of one image, and in words."""
    looks = verifier.atoms is not None and verifier.atoms.grounding is not None
    seconds = {
        "prompted": stated.REFLECT_SECONDS,
        "rules": stated.GROUNDING_SECONDS,
        "atoms": stated.GROUNDING_SECONDS if looks else stated.QUESTIONS_AN_IMAGE * stated.FILTER_SECONDS,
        "rewards": stated.REWARD_SECONDS,
    }
    return seconds.get(kind, stated.FILTER_SECONDS), f"by the verifier {kind!r}"


def _tiny_verifier_seconds(kind: str) -> float:
    """Of one image, by a tiny model on two cores."""
    return {"rules": 0.05, "atoms": 0.05, "rewards": 0.005, "judge": 0.02}.get(kind, TINY_VLM_SECONDS)


def verifier_gib(verifier: VerifierConfig) -> float | None:
    """On the GPU that also draws: what the verifiers load there; None where nobody knows. VLMs are counted where they
    are served."""
    rewards = rewards_gib(verifier.rewards)[0] if "rewards" in verifier.kinds else 0.0
    if rewards is None:
        return None
    rules_gib = (stated.GROUNDING_DINO_SWIN_T + stated.SAM_VIT_H) * 4 / GIB + stated.SAM_WORKING_GIB
    looks = verifier.atoms is not None and verifier.atoms.grounding is not None
    gib = {
        "trained": stated.QWEN_3B * 2 / GIB + 1.0,
        "rules": rules_gib,
        "atoms": rules_gib if looks else 0.0,
        "rewards": rewards - stated.CUDA_CONTEXT_GIB,
        "judge": stated.JUDGE_GIB,
    }
    return sum(gib.get(kind, 0.0) for kind in verifier.kinds)


def judge_costs(judge: JudgeConfig, gpu: Gpu | None) -> StageCosts:
    """Of one image."""
    if gpu is None:
        return cpu_costs(0.02)
    if judge.kind == "questions" and judge.questions is not None:
        return vlm_costs(stated.QUESTIONS_AN_IMAGE * stated.FILTER_SECONDS, 0.0, judge.questions.vlm, gpu)
    if judge.kind != "mask2former":
        return UNKNOWN
    source = "stated: an assumption; measure it with a pilot run"
    return StageCosts(stated.JUDGE_SECONDS, source, stated.JUDGE_GIB, "stated: an allowance for GenEval's two models")
