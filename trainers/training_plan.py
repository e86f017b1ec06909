"""What a training will take, without loading a weight: parameters, memory on each device, time a step.

Parameters are counted on the real architecture, built without memory; of models that are not on this machine the
published sizes are used. Memory of what is computed and time are estimates from the figures stated here. Where a
training has run already, its own rate (`rate.json`) replaces the estimated one.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Protocol

from schemas.errors import InputError, MissingWeightsError
from schemas.terminal import say
from trainers.measured_rate import rate_of

if TYPE_CHECKING:
    import torch

    from trainers.condenser import CondenserTrainingConfig
    from trainers.corrector import CorrectorTrainingConfig
    from trainers.loop import LoopConfig
    from trainers.optimizer import OptimizerConfig
    from trainers.reflector import ReflectorTrainingConfig
    from trainers.verifier import VerifierTrainingConfig

GIB = 2**30
ACTIVATION_BYTES = 34
"""Kept for the backward pass by a transformer layer, bytes for each token and unit of width in 16 bits, attention maps
not kept (Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models", Eq. 2)."""
OPTIMIZER_STATES = {"adamw": 2, "prodigy": 4}
"""Float32 numbers for each trained parameter: two moments; Prodigy's start and s besides."""
REACHED_SHARE = 74.4 / (15.65 / 28) / 312
"""Of a GPU's bf16 peak: FLUX.1-dev's forward pass on an A100 (74.4 TFLOP; published, 28 steps in 15.65 s)."""
GPUS: dict[str, tuple[float, float]] = {
    "h100": (79.6, 989.0),
    "h200": (139.8, 989.0),
    "a100-80gb": (79.3, 312.0),
    "l40s": (44.7, 362.0),
    "rtx4090": (23.6, 165.0),
}
"""Memory in GiB and dense bf16 peak in TFLOP/s, of the data sheets."""
CPU_TFLOPS = 0.1
"""Two cores, float32 products (the micro models' card has what one machine reached)."""
FLUX_DEV: dict[str, Any] = {"guidance_embeds": True}  # all else is the class's default
FLUX_FROZEN = {"text_encoder_2": 4_762_310_656, "text_encoder": 123_060_480, "vae": 83_819_683}
FLUX_MODELS = ("black-forest-labs/FLUX.1-dev", "black-forest-labs/FLUX.1-schnell")
_VISION = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16}
_TEXT = {"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}
QWEN: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2.5-VL-3B-Instruct": {
        "text_config": {
            **_TEXT,
            "vocab_size": 151_936,
            "hidden_size": 2048,
            "intermediate_size": 11_008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
        },
        "vision_config": {**_VISION, "out_hidden_size": 2048},
        "tie_word_embeddings": True,
    },
    "Qwen/Qwen2.5-VL-7B-Instruct": {
        "text_config": {
            **_TEXT,
            "vocab_size": 152_064,
            "hidden_size": 3584,
            "intermediate_size": 18_944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
        },
        "vision_config": {**_VISION, "out_hidden_size": 3584},
        "tie_word_embeddings": False,
    },
}
VLM_IMAGE_PX = 1024
"""Of shards made by FLUX; a patch pair is 28 px wide."""
VLM_TEXT_TOKENS = 96
"""Question and answer (allowance)."""


@dataclass(frozen=True)
class Plan:
    """Memory in GiB by what it holds, for one rank; TFLOP of forward and backward passes for one sample."""

    what: str
    base_parameters: int
    trained_parameters: int
    memory_gib: dict[str, float]
    sample_tflop: float
    note: str
    savers: tuple[str, ...] = ()
    """Flags of this trainer, not set, that would save memory."""

    @property
    def total_gib(self) -> float:
        return sum(self.memory_gib.values())


class Planned(Protocol):
    """The configuration of a training."""

    @property
    def loop(self) -> LoopConfig: ...
    @property
    def out(self) -> Path: ...


def plan_corrector(config: CorrectorTrainingConfig) -> Plan:
    """Memory of the largest of its sizes, arithmetic of their mean. MissingWeightsError for a model that is neither
    here nor known by its sizes."""
    import torch
    from diffusers import FluxTransformer2DModel

    from inference.flux.conditioning import ConditionedFlux
    from inference.flux.latents import condition_size

    flux, drawn = config.flux.model, config.flux
    folder = _folder(flux, FLUX_MODELS)
    described: Any = FLUX_DEV if folder is None else FluxTransformer2DModel.load_config(folder, subfolder="transformer")
    with torch.device("meta"):
        transformer: Any = FluxTransformer2DModel.from_config(described)
        model = ConditionedFlux(transformer, config.condition)
    others = FLUX_FROZEN if folder is None else {part: count_in_files(folder / part) for part in FLUX_FROZEN}
    base, trained = (sum(p.numel() for p in m.parameters()) for m in (transformer, model.lora))
    width = transformer.config.num_attention_heads * transformer.config.attention_head_dim
    layers = len(transformer.transformer_blocks) + len(transformer.single_transformer_blocks)
    factor = 16 if folder is None else 2 * 2 ** (len(_vae_config(folder)["block_out_channels"]) - 1)
    text = drawn.text_lengths[-1]
    config.batch.check(factor)
    texts = 2 if config.condition.attention == "cached" and config.condition.text_copy else 1
    counts = []
    for size in config.batch.buckets:
        shown = condition_size(size, config.batch.condition_px, factor)
        counts.append(texts * text + (size.pixels + shown.pixels) // factor**2)
    tokens = max(counts)
    each = 2 if drawn.dtype != "float32" else 4
    token_bytes = 2 if config.frozen_in_bf16 or each == 2 else 4
    micro = min(config.loop.micro_batch, config.loop.batch_size)
    whole = ACTIVATION_BYTES * token_bytes / 2 * tokens * width * micro
    kept = whole + layers * token_bytes * tokens * width * micro if config.recompute else whole * layers
    frozen_elsewhere = 0 if config.encode.ahead else sum(others.values())
    memory = {
        "transformer": base * each / GIB,
        "VAE and text encoders": frozen_elsewhere * each / GIB,
        **_trained_memory(trained, config.optimizer, config.loop),
        "activations": kept / GIB,
    }
    # Frozen weights have no gradients of their own: backward costs one forward pass, and recomputing another.
    passes = 3 if config.recompute else 2
    forward = fmean(2 * base * count + 4 * layers * count**2 * width for count in counts)
    notes = ["the encoders are needed once, before the first step"] if config.encode.ahead else []
    if len(counts) > 1:
        largest = config.batch.buckets[counts.index(tokens)]
        notes.append(f"memory at {largest}, the largest of {len(counts)} sizes; time as if each came as often")
    savers = (("--recompute", config.recompute), ("--encode.ahead", config.encode.ahead))
    return Plan(
        f"corrector on {flux}",
        base + sum(others.values()),
        trained,
        memory,
        passes * forward / 1e12,
        "; ".join(notes),
        tuple(flag for flag, is_set in savers if not is_set),
    )


def plan_verifier(config: VerifierTrainingConfig) -> Plan:
    """See `plan_corrector`. A sample is two images."""
    from inference.vlm.trained_verifier import vision_tower
    from trainers.vlm_lora import lora_targets

    model = _vlm(config.model.base_model)
    trained = _lora_parameters(model, lora_targets(model), config.model.rank)
    if config.model.train_vision:
        trained += sum(p.numel() for p in vision_tower(model).parameters())
    return _vlm_plan(f"verifier on {config.model.base_model}", model, trained, 2, config, config.model.base_model)


def plan_reflector(config: ReflectorTrainingConfig, workers: int = 1) -> Plan:
    """See `plan_corrector`. A sample is one image, or two of a comparison. A model that is trained whole is shared out
    among the workers."""
    return _lesson_plan("reflector", 1, config, workers)


def plan_condenser(config: CondenserTrainingConfig, workers: int = 1) -> Plan:
    """See `plan_reflector`. A sample is text alone."""
    return _lesson_plan("condenser", 0, config, workers)


def _lesson_plan(
    what: str, images: int, config: ReflectorTrainingConfig | CondenserTrainingConfig, workers: int
) -> Plan:
    from trainers.vlm_lora import lora_targets

    name = config.model.base_model
    model = _vlm(name)
    if not config.model.full:
        trained = _lora_parameters(model, lora_targets(model), config.model.rank)
        return _vlm_plan(f"{what} on {name}", model, trained, images, config, name)
    plan = _vlm_plan(f"{what} on {name}", model, sum(p.numel() for p in model.parameters()), images, config, name)
    largest = max(sum(p.numel() for p in layer.parameters()) for layer in model.get_decoder().layers)
    table = sum(part.weight.numel() for part in (model.get_output_embeddings(), model.get_input_embeddings()))
    shared = {name: gib / workers for name, gib in plan.memory_gib.items() if name != "activations"}
    gathered = (2 if config.bf16 else 4) * (2 * largest + table) / GIB if workers > 1 else 0.0
    memory = shared | {"model": gathered, "activations": plan.memory_gib["activations"]}
    gib = 4 * plan.base_parameters / GIB
    note = f"{plan.note}; each worker reads the whole model once, {gib:.0f} GiB of main memory"
    return replace(plan, memory_gib=memory, note=note, savers=(*plan.savers, f"--workers {2 * workers}"))


def _vlm_plan(
    what: str,
    model: Any,
    trained: int,
    images: int,
    config: VerifierTrainingConfig | ReflectorTrainingConfig | CondenserTrainingConfig,
    name: str,
) -> Plan:
    from inference.vlm.trained_verifier import vision_tower

    text, vision = model.config.get_text_config(), _vision_sizes(model.config)
    in_vision = sum(p.numel() for p in vision_tower(model).parameters())
    trains_vision = getattr(config.model, "train_vision", False)
    total = sum(p.numel() for p in model.parameters())
    image_px = vision.image_px or (VLM_IMAGE_PX if text.hidden_size > 512 else 32)
    patches = max(vision.merge, image_px // vision.patch_px) ** 2 if images else 0
    tokens = patches // vision.merge**2 + VLM_TEXT_TOKENS
    micro = min(config.loop.micro_batch, config.loop.batch_size) * max(1, images)
    token_bytes = 2 if config.bf16 else 4
    language, sight = tokens * text.hidden_size, patches * vision.width  # of each layer
    in_layers = text.num_hidden_layers * language + vision.layers * sight
    layer = ACTIVATION_BYTES * token_bytes / 2 * micro
    kept = token_bytes * micro * in_layers + layer * max(language, sight) if config.recompute else layer * in_layers
    logits = 3 * 4 * tokens * text.vocab_size * micro if "verifier" not in what else 0
    memory = {
        "model": (total - (in_vision if trains_vision else 0)) * 4 / GIB,  # loaded in float32
        **_trained_memory(trained, config.optimizer, config.loop),
        "activations": (kept + logits) / GIB,
    }
    forward = 2 * (total - in_vision) * tokens + 2 * in_vision * patches
    passes = 3 if config.recompute else 2
    savers = () if config.recompute else ("--recompute",)
    shown = f"images of {image_px} px" if images else "texts alone"
    return Plan(what, total, trained, memory, passes * max(1, images) * forward / 1e12, shown, savers)


def _trained_memory(trained: int, optimizer: OptimizerConfig, loop: LoopConfig) -> dict[str, float]:
    """Weights, gradients and optimizer, in float32; their moving average, where one is kept."""
    numbers = {"trained and gradients": 2, "optimizer": OPTIMIZER_STATES[optimizer.name]}
    if loop.ema_decay:
        numbers["moving average"] = 2  # it, and the weights while it is applied
    return {name: count * 4 * trained / GIB for name, count in numbers.items()}


def _folder(model: str, known: tuple[str, ...]) -> Path | None:
    """Where a model lies; None for a known one that is not on this machine."""
    from inference.model_store import resolve_model

    try:
        return resolve_model(model)
    except MissingWeightsError:
        if model in known:
            return None
        raise


def _vae_config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "vae" / "config.json").read_text())


@dataclass(frozen=True)
class _VisionSizes:
    """Of a vision tower. merge: patches a side that become one token; image_px: 0 where images keep their sizes."""

    layers: int
    width: int
    patch_px: int
    merge: int
    image_px: int


def _vision_sizes(config: Any) -> _VisionSizes:
    """From a VLM's configuration, whatever its class calls them. InputError for a class that says nothing."""
    vision = config.vision_config

    def first(*names: str) -> int | None:
        found = next((value for name in names if (value := getattr(vision, name, None)) is not None), None)
        return max(found) if isinstance(found, (list, tuple)) else found

    layers, width = first("depth", "num_hidden_layers", "num_layers"), first("embed_dim", "hidden_size")
    patch_px, image_px = first("patch_size"), first("image_size") or 0
    if not (layers and width and patch_px):
        raise InputError(
            f"nothing is known of the vision tower of a {config.model_type}",
            field="--model.base-model",
            expected="a class whose vision_config says depth, hidden_size and patch_size",
        )
    merge = first("spatial_merge_size") or 1
    if ratio := getattr(config, "downsample_ratio", None):  # InternVL
        merge = round(1 / ratio)
    elif tokens := getattr(config, "mm_tokens_per_image", None):  # Gemma 3
        merge = round(image_px / patch_px / tokens**0.5)
    return _VisionSizes(layers, width, patch_px, max(1, merge), image_px)


def _vlm(name: str) -> Any:
    """The architecture without memory. InputError for what is no VLM."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, Qwen2_5_VLConfig

    from inference.vlm.adapters import check_class

    folder = _folder(name, tuple(QWEN))
    if folder is not None:
        check_class(folder)
    config = Qwen2_5_VLConfig(**QWEN[name]) if folder is None else AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


def _lora_parameters(model: torch.nn.Module, targets: str, rank: int) -> int:
    layers: list[Any] = [layer for name, layer in model.named_modules() if re.fullmatch(targets, name)]
    return sum(rank * (layer.in_features + layer.out_features) for layer in layers)


def count_in_files(folder: Path) -> int:
    """Parameters in a folder's safetensors files, by their headers."""
    from safetensors import safe_open

    count = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                size = 1
                for side in file.get_slice(name).get_shape():
                    size *= side
                count += size
    return count


def print_plan(plan: Plan, config: Planned, device: str, gpu: str, workers: int) -> None:
    """The plan for people. InputError for a GPU that is not known."""
    loop = config.loop
    if gpu not in GPUS:
        raise InputError(f"no figures of {gpu!r}", field="--plan-gpu", expected=" or ".join(GPUS))
    on_gpu = device != "cpu"
    memory_gib, peak = GPUS[gpu]
    tflops, where = (peak * REACHED_SHARE, gpu) if on_gpu else (CPU_TFLOPS, "two CPU cores")
    base, trained = plan.base_parameters / 1e6, plan.trained_parameters / 1e6
    lines = [
        f"{plan.what}: {base:,.1f} M parameters, {trained:,.2f} M trained",
        f"memory of each of {workers} worker(s), micro-batch {loop.micro_batch}:",
    ]
    lines += [f"  {name:<24}{gib:9.3f} GiB" for name, gib in plan.memory_gib.items()]
    lines.append(f"  {'in all':<24}{plan.total_gib:9.3f} GiB")
    if on_gpu:
        fits = plan.total_gib < 0.95 * memory_gib
        lines[-1] += f" of {memory_gib} ({gpu}): {'fits' if fits else f'does NOT fit: {_advice(plan, loop)}'}"
    measured, said = rate_of(config.out, config, gpu if on_gpu else "cpu")
    if measured is None:
        sample_s = plan.sample_tflop / tflops
        source = f"estimated, {plan.sample_tflop:.3g} TFLOP a sample at {tflops:.3g} TFLOP/s ({where})"
    else:
        sample_s, source = measured.workers / measured.samples_per_s, said
    step_s = sample_s * loop.batch_size / workers
    lines.append(f"time: {sample_s:.3g} s a sample and worker, {step_s:.3g} s a step of {loop.batch_size}; {source}")
    lines.append(f"      {loop.steps} steps take {step_s * loop.steps / 3600:.2f} h")
    lines += [f"({said})"] if said and measured is None else []
    lines += [f"({plan.note})"] if plan.note else []
    say("\n".join(lines))


def _advice(plan: Plan, loop: LoopConfig) -> str:
    """Flags that this trainer has, and that would help."""
    smaller = [f"--loop.micro-batch {loop.micro_batch // 2}"] if loop.micro_batch > 1 else []
    return " or ".join([*plan.savers, *smaller]) or "a GPU with more memory is needed"
