"""How the GPUs of a cluster are shared out for a search: its rounds need the models that draw and the vLLMs that answer
at the same time, so a vLLM lies beside each FLUX, or on GPUs of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence

from inference.vlm.vlm import VlmConfig
from pipelines import stated_figures as stated
from pipelines.model_costs import HEADROOM, critic_seconds, vllm_gib, vllm_memory
from pipelines.placement import Cluster, Placement, StageEstimate, require_fitting
from pipelines.search_job import SearchJobConfig
from pipelines.served_vlms import served_vlms
from pipelines.stages.draft_round import DraftRound
from schemas.errors import InputError

LEAST_CACHE_GIB = 4.0
"""Of a vLLM beside other models (allowance): some tens of questions of one image each."""
BESIDE = 0.4
"""Of a GPU, as Ray counts: a vLLM beside a drawing model, which gets the rest."""


def place_search(config: SearchJobConfig, stages: Sequence[StageEstimate], cluster: Cluster) -> Placement:
    """Rounds first, then the judge. InputError where the vLLMs have no room."""
    available, n = cluster.gpu.memory_gib, cluster.gpus
    at_work = [stage for stage in stages if stage.memory_gib and stage.seconds is not None]
    on_gpu = [stage for stage in at_work if not stage.vllm]  # who asks a vLLM alone lies on none
    drafting = next((stage for stage in stages if stage.name == DraftRound.name and stage.memory_gib), None)
    links = config.links()["rule"]
    served = served_vlms(next(link.config for link in links if link.stage is DraftRound))
    vllm_each = max((vllm_gib(vlm, LEAST_CACHE_GIB)[0] for vlm in served), default=0.0)
    drawing_gib = (drafting.memory_gib or 0.0) if drafting else 0.0
    require_fitting(stages, cluster, f"--tools.generator.{config.tools.generator.kind}.quantization and offload")
    placed = on_gpu if drafting is None or drafting in on_gpu else [drafting, *on_gpu]
    workers, gpus = dict.fromkeys([s.name for s in placed], n), dict.fromkeys([s.name for s in placed], 1.0)
    seconds = sum(stage.seconds or 0.0 for stage in at_work)
    flags, hours = [], seconds / n / 3600
    together = -(-len(served) // n)  # vLLMs on each GPU, where every GPU draws
    names, prefixes = ", ".join(vlm.name for vlm in served), flags_of(config, served)
    if config.tools.generator.is_elsewhere:
        why = "images are drawn elsewhere: the GPUs are for what looks at them"
    elif not served:
        why = "no vLLM is needed: every GPU draws"
    elif drafting is None:
        why = "how long drawing takes, nobody knows: run a pilot, then `plan search --run` on it"
    elif drawing_gib + together * vllm_each <= HEADROOM * available:
        memory = vllm_memory(available, drawing_gib + (together - 1) * vllm_each)
        gpus[drafting.name] = 1 - BESIDE
        flags = [f"--{flag}.gpus {BESIDE / together:g} --{flag}.gpu-memory {memory:g}" for flag in prefixes]
        why = (
            f"drawing takes {drawing_gib:.1f} and a vLLM {vllm_each:.1f} of {available:.1f} GiB: every GPU draws, and "
            f"holds {'one vLLM' if together == 1 else f'{together} vLLMs'} ({names})"
        )
    elif n > len(served):
        answering = max(len(served), math.ceil(n * _answering_share(config, drafting)))
        workers[drafting.name] = n - answering
        hours += (drafting.seconds or 0.0) * (1 / (n - answering) - 1 / n) / 3600
        each = answering // len(served)
        flags = [f"--{flag}.gpus 1 --{flag}.gpu-memory {HEADROOM:g} --{flag}.replicas {each}" for flag in prefixes]
        why = (
            f"drawing takes {drawing_gib:.1f} and a vLLM {vllm_each:.1f} of {available:.1f} GiB: "
            f"{answering} of {n} GPUs answer ({names}), the others draw"
        )
    else:
        raise InputError(
            f"a model that draws and {names} under vLLM have no room on {n} x {cluster.gpu_type}",
            field="--gpus",
            expected="more GPUs or larger ones, or a VLM at an address (--vlm.endpoint-model ...)",
        )
    counted = [stage for stage in placed if stage.flag and n > 1]
    flags += [
        f"--{stage.flag}.count {workers[stage.name]} --{stage.flag}.gpus {gpus[stage.name]:g}" for stage in counted
    ]
    start = "--runtime ray --schedule staged" if n > 1 else "--schedule staged"
    why += "; then all judge" if config.judge.judge.is_there else ""
    return Placement("staged", why, workers, gpus, hours, " ".join([start, *flags]))


def flags_of(config: SearchJobConfig, served: Sequence[VlmConfig]) -> list[str]:
    """The prefixes of the flags that say how each VLM is served."""
    critic = config.tools.critic.vlm if config.tools.critic else None
    verifier = config.tools.verifier
    own = {
        "tools.critic.vlm.vlm": critic.vlm if critic else None,
        "tools.critic.vlm.reflector-vlm": critic.reflector_vlm if critic else None,
        "tools.verifier.vlm.vlm": verifier.vlm.vlm if verifier.vlm else None,
        "tools.verifier.prompted.vlm": verifier.prompted.vlm if verifier.prompted else None,
        "tools.verifier.atoms.vlm": verifier.atoms.vlm if verifier.atoms else None,
    }
    return [next((flag for flag, vlm in own.items() if vlm and vlm.server == one.server), "vlm") for one in served]


def _answering_share(config: SearchJobConfig, drafting: StageEstimate) -> float:
    """Of a round's time, what is spent on questions (stated)."""
    asked = critic_seconds(config.tools.critic, config.search.strategy)[0] + stated.FILTER_SECONDS
    each = drafting.seconds_per_item or asked
    return min(asked / each, 0.5)
