"""Which vLLMs a stage asks, as its configuration says: what a cluster must have room for beside the workers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from inference.vlm.critic import reflecting_vlm
from inference.vlm.trained_verifier import TrainedVerifierConfig
from inference.vlm.vlm import VlmConfig


def served_vlms(config: Any) -> tuple[VlmConfig, ...]:
    """Those of kind `vllm` that a stage's or a search's configuration asks, nested ones included, each model once."""
    found = [vlm for vlm in _asked(config) if vlm.kind == "vllm" and not vlm.endpoint_model]
    return tuple({vlm.server: vlm for vlm in found}.values())


def _asked(config: Any) -> Iterator[VlmConfig]:
    if isinstance(config, VlmConfig):
        yield config
        return
    if isinstance(config, TrainedVerifierConfig):
        return  # it works in the stage's own process, whatever the kind of the VLM whose device it takes
    nested = [getattr(config, field.name) for field in dataclasses.fields(config)]
    vlm, reflector = getattr(config, "vlm", None), getattr(config, "reflector", "")
    if isinstance(vlm, VlmConfig) and reflector:
        own = getattr(config, "reflector_vlm", None)
        yield reflecting_vlm(reflector, own, vlm)
        nested = [one for one in nested if one is not own]
        if getattr(config, "cot_share", 1.0) == 0:
            nested = [one for one in nested if one is not vlm]  # the reflector answers everything
    for value in nested:
        for one in value if isinstance(value, tuple) else (value,):
            if dataclasses.is_dataclass(one):
                yield from _asked(one)
