"""Which VLMs a stage asks, as its configuration says: what a cluster must have room for beside the workers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from inference.vlm.critic import VlmCriticConfig, reflecting_vlm
from inference.vlm.trained_verifier import TrainedVerifierConfig
from inference.vlm.vlm import VlmConfig


def served_vlms(config: Any) -> tuple[VlmConfig, ...]:
    """Those that vLLM answers for, of a stage's or a search's configuration, each vLLM once."""
    found = [vlm for vlm in asked_vlms(config) if vlm.kind == "vllm" and not vlm.endpoint_model]
    return tuple({vlm.server: vlm for vlm in found}.values())


def asked_vlms(config: Any) -> Iterator[VlmConfig]:
    """All that it asks, nested configurations included."""
    if isinstance(config, VlmConfig):
        yield config
        return
    if isinstance(config, TrainedVerifierConfig):
        return  # it works in the stage's own process, whatever the kind of the VLM whose device it takes
    nested = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    own = nested.pop("reflector_vlm", None)
    if isinstance(config, VlmCriticConfig) or "cot_share" in nested:
        if nested["reflector"] or own:
            yield reflecting_vlm(nested["reflector"], own, config.vlm or VlmConfig())
        if nested.get("cot_share") == 0:
            del nested["vlm"]  # the reflector answers everything
    for value in nested.values():
        for one in value if isinstance(value, tuple) else (value,):
            if dataclasses.is_dataclass(one):
                yield from asked_vlms(one)
