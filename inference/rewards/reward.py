"""Which reward scores images. A new kind is a file with its configuration and class, and a field here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from inference.interfaces import Reward
from inference.rewards.clip_reward import ClipRewardConfig
from schemas.configuration import chosen_kind, without_other_kinds
from schemas.errors import InputError


@dataclass(frozen=True)
class RewardConfig:
    """One scorer of an ensemble. Only `kind` is loaded."""

    name: str = "clip"
    """What its scores are called in rows, shards and reports."""
    kind: Literal["clip"] = "clip"
    """clip: any CLIP, as CLIP itself, PickScore and HPSv2.1 are used."""
    weight: float = 1.0
    """In the ensemble, against the others'; 0 leaves it out."""
    clip: ClipRewardConfig | None = field(default_factory=ClipRewardConfig)

    def only_what_is_used(self) -> RewardConfig:
        """Without the other kinds."""
        return without_other_kinds(self)

    def open(self) -> Reward:
        """Load it. MissingWeightsError, InputError."""
        return chosen_kind(self).open()


def used_rewards(rewards: Sequence[RewardConfig]) -> tuple[RewardConfig, ...]:
    """Those with a weight, each without its other kinds. InputError for none, a negative weight, or a name twice."""
    if any(reward.weight < 0 for reward in rewards):
        raise InputError(f"weights {[r.weight for r in rewards]}", field="rewards", expected="0 or more")
    used = tuple(reward.only_what_is_used() for reward in rewards if reward.weight)
    names = [reward.name for reward in used]
    if not used or len(set(names)) < len(names):
        raise InputError(f"rewards {names}", field="rewards", expected="one or more with a weight, of different names")
    return used


def without_weights(rewards: Sequence[RewardConfig]) -> tuple[RewardConfig, ...]:
    """The same scorers where weights have no say, so that they do not count in what a run is known by."""
    return tuple(replace(reward, weight=1.0) for reward in rewards)
