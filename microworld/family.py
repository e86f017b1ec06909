"""The shipped models of the micro family as configurations: what they are called, and the sizes they run at.

Everything takes keyword arguments that change fields of the configuration.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from inference.flux.generator import FluxGeneratorConfig
from inference.generator import GeneratorConfig
from inference.grounding.color_namer import ColorNamerConfig
from inference.grounding.detector import DetectorConfig
from inference.grounding.grounded_sam import GroundedSamConfig
from inference.grounding.grounding_dino import GroundingDinoConfig
from inference.grounding.pixel_color import PixelColorConfig
from inference.grounding.sam import SamConfig
from inference.grounding.segmenter import SegmenterConfig
from inference.judges.judge import JudgeConfig
from inference.judges.segmentation_judge import SegmentationJudgeConfig
from inference.rewards.clip_reward import ClipRewardConfig
from inference.rewards.reward import RewardConfig
from inference.vlm.in_process import InProcessVlmConfig
from inference.vlm.vlm import VlmConfig
from microworld.scenes.world import COLORS


def micro_flux(model: str = "micro/flux", **changes: Any) -> FluxGeneratorConfig:
    """The micro FLUX: 32 px, 4 steps (.65 of the dev prompts are right at 8, .59 at 4: more is left to correct)."""
    flux = FluxGeneratorConfig(
        model=model,
        num_steps=4,
        guidance=3.0,
        size_px=32,
        text_lengths=(16, 32, 48, 64),
        batch_size=8,
        dtype="float32",
        device="cpu",
    )
    return replace(flux, **changes)


def micro_generator(model: str = "micro/flux", **changes: Any) -> GeneratorConfig:
    """The same as a generator."""
    return GeneratorConfig("flux", micro_flux(model, **changes))


def micro_vlm(model: str = "micro/vlm", **changes: Any) -> VlmConfig:
    """The micro VLM, in process; vLLM takes it too."""
    vlm = VlmConfig(
        kind="in-process",
        model=model,
        max_new_tokens=256,
        constrain_json=False,
        dtype="float32",
        concurrency=16,
        vllm_arguments=("--max-model-len", "1024", "--enforce-eager"),
        device="cpu",
    )
    return replace(vlm, **changes)


def micro_qwen(model: str = "micro/vlm", **changes: Any) -> InProcessVlmConfig:
    """The micro VLM in this process, as the class takes it."""
    return replace(InProcessVlmConfig(model=model), **changes)


def micro_dino(model: str = "micro/grounding_dino", **changes: Any) -> GroundingDinoConfig:
    """The micro GroundingDINO. Thresholds: a sweep on held-out scenes through the VAE
    (`microworld.training.grounding_evaluation`) is flat from .25 to .4; on generated images, looked at one by one, .25
    misses the fewest real objects, which counting needs most, and accepts some more malformed shapes."""
    dino = GroundingDinoConfig(
        model=model, box_threshold=0.25, text_threshold=0.25, nms_iou=0.5, batch_size=32, text_length=20
    )
    return replace(dino, **changes)


def micro_sam(model: str = "micro/sam", **changes: Any) -> SamConfig:
    """The micro SAM."""
    return replace(SamConfig(model=model, image_batch=32, box_batch=64), **changes)


def micro_grounded_sam(dino: GroundingDinoConfig | None = None, sam: SamConfig | None = None) -> GroundedSamConfig:
    """Both, and the world's palette; other models where they are named."""
    palette = PixelColorConfig(palette=tuple((name, rgb) for name, rgb in COLORS.items()))
    return GroundedSamConfig(
        DetectorConfig("dino", dino or micro_dino()),
        SegmenterConfig("sam", sam or micro_sam()),
        ColorNamerConfig("pixels", None, palette),
    )


def micro_clip(name: str) -> ClipRewardConfig:
    """One of the three shipped CLIPs: clip, hps, pick."""
    return ClipRewardConfig(model=f"micro/rewards/{name}", batch_size=32)


def micro_rewards() -> tuple[RewardConfig, ...]:
    """Contrastive on captions (clip), preference for well drawn images (hps), preference for right ones (pick)."""
    return tuple(RewardConfig(name=name, clip=micro_clip(name)) for name in ("clip", "hps", "pick"))


def micro_segmentation_judge(**changes: Any) -> SegmentationJudgeConfig:
    """The judge that no search sees."""
    return replace(SegmentationJudgeConfig(model="micro/judge"), **changes)


def micro_judge(**changes: Any) -> JudgeConfig:
    """The same as a judge of any kind."""
    return JudgeConfig("segmentation", mask2former=None, segmentation=micro_segmentation_judge(**changes))
