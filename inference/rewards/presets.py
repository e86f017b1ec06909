"""The rewards of an ensemble: the three micro ones, and the published three."""

from __future__ import annotations

from dataclasses import dataclass, field

from inference.rewards.clip_reward import ClipRewardConfig

_VIT_H = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"


def _micro(name: str) -> ClipRewardConfig:
    return ClipRewardConfig(model=f"micro/rewards/{name}", batch_size=32)


@dataclass(frozen=True)
class RewardsConfig:
    """The scorers, by name; one with an empty model is left out. The defaults are the micro family's: contrastive on
    captions (clip), preference for well drawn images (hps), preference for right ones (pick)."""

    clip: ClipRewardConfig = field(default_factory=lambda: _micro("clip"))
    hps: ClipRewardConfig = field(default_factory=lambda: _micro("hps"))
    pick: ClipRewardConfig = field(default_factory=lambda: _micro("pick"))

    def chosen(self) -> dict[str, ClipRewardConfig]:
        """Scorer -> configuration of those that have a model."""
        every = {"clip": self.clip, "hps": self.hps, "pick": self.pick}
        return {name: config for name, config in every.items() if config.model}


def published_rewards(device: str = "cuda") -> RewardsConfig:
    """CLIP ViT-L/14, HPSv2.1 and PickScore, as in ReflectionFlow §3.2."""
    return RewardsConfig(
        clip=ClipRewardConfig(dtype="float16", batch_size=16, device=device),
        hps=ClipRewardConfig(
            model=_VIT_H, checkpoint="HPS_v2.1_compressed.pt", dtype="float16", batch_size=16, device=device
        ),
        pick=ClipRewardConfig(
            model="yuvalkirstain/PickScore_v1", processor=_VIT_H, dtype="float16", batch_size=16, device=device
        ),
    )
