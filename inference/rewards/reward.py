"""Which rewards score images. A new kind is a file with its configuration and class, and a field here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from inference.interfaces import Reward
from inference.rewards.clip_reward import ClipRewardConfig
from inference.rewards.hpsv3 import Hpsv3Config
from inference.rewards.image_reward import ImageRewardConfig
from inference.rewards.own import OwnRewardConfig
from inference.rewards.vqa_score import VqaScoreConfig
from inference.vlm.endpoint import Journal
from inference.vlm.trained_verifier import TrainedVerifierConfig
from inference.vlm.vlm import VlmConfig
from schemas.configuration import added_field, chosen_kind, without_other_kinds
from schemas.errors import InputError


@dataclass(frozen=True)
class RewardConfig:
    """One scorer of an ensemble. Only `kind` is loaded."""

    name: str = ""
    """What its scores are called in rows, shards and reports; empty: as its kind."""
    kind: Literal["clip", "hpsv3", "imagereward", "vqa-score", "trained", "own"] = "clip"
    """clip: any CLIP, as CLIP itself, PickScore and HPSv2.1 are used; hpsv3: HPSv3; imagereward: ImageReward;
    vqa-score: how probable a VLM's Yes is; trained: a Bradley-Terry model, of our own form or published (the
    Image-Verifier); own: an object that code of yours makes."""
    weight: float = 1.0
    """In the ensemble, against the others'; 0 leaves it out."""
    clip: ClipRewardConfig | None = field(default_factory=ClipRewardConfig)
    hpsv3: Hpsv3Config | None = added_field(None)
    imagereward: ImageRewardConfig | None = added_field(None)
    vqa_score: VqaScoreConfig | None = added_field(None)
    trained: TrainedVerifierConfig | None = added_field(None)
    own: OwnRewardConfig | None = added_field(None)

    def only_what_is_used(self, vlm: VlmConfig | None = None) -> RewardConfig:
        """Without the other kinds, and with its name. vlm: who is asked, or whose device is taken, where no other is
        named. InputError for a kind without configuration, or a trained one without a model."""
        chosen = chosen_kind(self)
        if isinstance(chosen, TrainedVerifierConfig) and not chosen.model:
            raise InputError(
                f"the reward {self.name or self.kind!r} names no model",
                field="rewards.trained.model",
                expected="a verifier's folder or hub id",
            )
        if isinstance(chosen, (VqaScoreConfig, TrainedVerifierConfig)):
            chosen = replace(chosen, vlm=chosen.vlm or vlm)
        used = without_other_kinds(self)
        return replace(used, name=self.name or self.kind, **{self.kind.replace("-", "_"): chosen})

    def open(self, journal: Journal | None = None) -> Reward:
        """Load or reach it. journal: for the answers of VLMs elsewhere. MissingWeightsError, InputError."""
        chosen = chosen_kind(self)
        return chosen.open(journal) if isinstance(chosen, (VqaScoreConfig, TrainedVerifierConfig)) else chosen.open()


def used_rewards(rewards: Sequence[RewardConfig], vlm: VlmConfig | None = None) -> tuple[RewardConfig, ...]:
    """Those with a weight, each without its other kinds. vlm: who is asked, where a reward names no VLM. InputError for
    none, a negative weight, or a name twice."""
    if any(not 0 <= reward.weight < math.inf for reward in rewards):
        raise InputError(f"weights {[r.weight for r in rewards]}", field="rewards", expected="0 or more")
    used = tuple(reward.only_what_is_used(vlm) for reward in rewards if reward.weight)
    names = [reward.name for reward in used]
    if not used or len(set(names)) < len(names):
        raise InputError(
            f"rewards {names}",
            field="rewards",
            expected="one or more with a weight, of different names (`--rewards.rewards.3.name` gives the fourth one)",
        )
    return used


def without_weights(rewards: Sequence[RewardConfig]) -> tuple[RewardConfig, ...]:
    """The same scorers where weights have no say, so that they do not count in what a run is known by."""
    return tuple(replace(reward, weight=1.0) for reward in rewards)
