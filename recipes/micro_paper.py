"""micro-paper: the paper's own search with the micro models, as `reflectionflow` is with the published ones."""

from __future__ import annotations

from dataclasses import replace

from inference.requirements.reader import RequirementsConfig
from inference.search import SearchConfig
from pipelines.driver import RunOptions
from pipelines.search_job import SearchJobConfig
from recipes import micro


def search() -> SearchJobConfig:
    """Width 2, depth 16, every chain from its own last image, with a refined prompt in each round (ReflectionFlow,
    Algorithm 1 and §4); the VLM reflects, refines and chooses."""
    job = micro.search()
    critic = job.tools.critic
    assert critic is not None
    assert critic.vlm is not None
    asked = replace(critic, kind="vlm", vlm=replace(critic.vlm, reflector=""))
    return replace(
        job,
        search=SearchConfig(width=2, depth=16, strategy="noise+prompt+reflection", carry="own"),
        requirements=RequirementsConfig(),
        tools=replace(job.tools, critic=asked, verifier=replace(job.tools.verifier, kinds=("vlm",))),
    )


def run_options() -> RunOptions:
    """As micro's."""
    return micro.run_options()
