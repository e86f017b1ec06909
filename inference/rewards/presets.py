"""The three micro rewards, and the published ones that are plain CLIP models."""

from __future__ import annotations

from inference.rewards.clip_reward import ClipRewardConfig


def micro_rewards(device: str = "cpu") -> dict[str, ClipRewardConfig]:
    """Scorer -> configuration: contrastive on captions, preference for well drawn, preference for right images."""
    return {
        name: ClipRewardConfig(model=f"micro/rewards/{name}", batch_size=32, device=device)
        for name in ("clip", "hps", "pick")
    }


def published_clip_rewards(device: str = "cuda") -> dict[str, ClipRewardConfig]:
    """CLIP ViT-L/14 and PickScore. (HPSv2.1 is an OpenCLIP checkpoint, not a `CLIPModel`.)"""
    return {
        "clip": ClipRewardConfig(device=device),
        "pick": ClipRewardConfig(
            model="yuvalkirstain/PickScore_v1", processor="laion/CLIP-ViT-H-14-laion2B-s32B-b79K", device=device
        ),
    }
