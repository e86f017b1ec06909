"""What an image of a search costs by part (text, denoiser, VAE, verifier, reflector, refiner), and what is saved where
the chains of many prompts are drawn in common batches.

`python -m benchmarks.search.search_cost --corrector micro/corrector` (or none: then nothing is corrected).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import tyro

from benchmarks.results_file import Circumstances, print_table, run_command, save
from inference.corrector import CorrectorConfig
from inference.flux.corrector import FluxCorrectorConfig
from inference.interfaces import ReadsRequirements
from inference.search import SearchConfig, SearchTools, Strategy, search
from inference.search_tools import SearchToolsConfig
from pipelines.search_job import SearchJobConfig, search_prompts
from recipes import catalogue
from schemas.errors import InputError

TOGETHER = {"one chain at a time": (1, 1), "a prompt's chains together": (2, 2), "a unit's chains together": (2, 0)}
"""By name: chains of a prompt in one call (the others are searched after it), and images a forward pass (0: the
configuration's)."""


@dataclass(frozen=True)
class Arguments:
    """Which models, and how much of them is timed."""

    preset: str = "micro-paper"
    """Whose search it is; one VLM must reflect and refine."""
    corrector: str = "micro/corrector"
    """A corrector's folder or name; empty: the strategy is noise + prompt."""
    num_prompts: int = 16
    """Prompts of a unit."""
    depth: int = 4
    num_threads: int = 2


class Parts:
    """Seconds by part: methods of loaded models are wrapped by a clock."""

    def __init__(self, device: str) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._device, self._inside = device, 0

    def wrap(self, owner: Any, method: str, part: str) -> None:
        """Time is the outermost wrapped method's."""
        call: Callable[..., Any] = getattr(owner, method)

        def timed(*arguments: Any, **named: Any) -> Any:
            if self._inside:
                return call(*arguments, **named)
            self._inside += 1
            started = self._now()
            try:
                return call(*arguments, **named)
            finally:
                self._inside -= 1
                self.seconds[part] += self._now() - started

        setattr(owner, method, timed)

    def _now(self) -> float:
        if self._device == "cuda":
            import torch

            torch.cuda.synchronize()
        return time.perf_counter()


def watch(tools: SearchTools, device: str) -> Parts:
    """Clocks at everything that takes time."""
    parts = Parts(device)
    generator: Any = tools.generator
    parts.wrap(generator, "encode_text", "text encoders")
    parts.wrap(generator.pipeline.transformer, "forward", "denoiser")
    parts.wrap(generator.pipeline.vae, "encode", "VAE, flawed image in")
    parts.wrap(generator.pipeline.vae, "decode", "VAE, image out")
    corrector: Any = tools.corrector
    if corrector is not None:
        parts.wrap(corrector.model, "forward", "denoiser, correcting")
    critic: Any = tools.critic
    refine = critic._refine
    vlm = critic._refiner  # micro: the reflector, too
    answer = vlm.answer
    words = refine.partition("{")[0]

    def timed_answer(requests: Any) -> Any:
        started = parts._now()
        answers = answer(requests)
        part = "refiner" if requests and requests[0].text.startswith(words) else "reflector"
        parts.seconds[part] += parts._now() - started
        return answers

    vlm.answer = timed_answer
    asked = "verify_records" if isinstance(tools.verifier, ReadsRequirements) else "verify"
    parts.wrap(tools.verifier, asked, "verifier")
    return parts


def timed_search(prompts: list[str], config: SearchConfig, tools: SearchTools, chains: int, alone: bool) -> float:
    """Seconds. chains: of a prompt in one call. alone: each prompt by itself."""
    started = time.perf_counter()
    groups = [[prompt] for prompt in prompts] if alone else [prompts]
    for group in groups:
        for number in range(config.width // chains):
            part = replace(config, width=chains, seed=config.seed + number)
            search(group, part, tools)
    return time.perf_counter() - started


def by_part(config: SearchToolsConfig, prompts: list[str], search_config: SearchConfig) -> dict[str, float]:
    """Milliseconds an image, and `everything else`."""
    tools = config.open()
    search(prompts[:2], replace(search_config, depth=2), tools)  # first passes take longer
    parts = watch(tools, config.generator.device)
    tools.generator._encoded.clear()  # pyright: ignore - texts of the first passes
    seconds = timed_search(prompts, search_config, tools, search_config.width, alone=False)
    images = len(prompts) * search_config.budget
    found = {part: 1e3 * s / images for part, s in sorted(parts.seconds.items(), key=lambda item: -item[1])}
    return found | {"everything else": 1e3 * (seconds - sum(parts.seconds.values())) / images}


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    words = f" --corrector {arguments.corrector}" if arguments.corrector != "micro/corrector" else ""
    circumstances = Circumstances.now(f"python -m benchmarks.search.search_cost{words}")
    import torch

    torch.set_num_threads(arguments.num_threads)
    job = catalogue.load(arguments.preset, "search")
    critic = job.tools.critic
    if critic is None or critic.kind != "vlm" or critic.vlm is None or critic.vlm.reflector:
        raise InputError(f"{arguments.preset}: more than one VLM reflects", field="--preset", expected="micro-paper")
    strategy: Strategy = "noise+prompt+reflection" if arguments.corrector else "noise+prompt"
    search_config = SearchConfig(2, arguments.depth, strategy)
    job = replace(job, num_prompts=arguments.num_prompts, search=search_config)
    corrector = CorrectorConfig("flux", FluxCorrectorConfig(arguments.corrector))
    config = replace(job.tools, corrector=corrector).for_search(search_config, job.vlm)
    prompts = [row.prompt.text for row in search_prompts(replace(job, images_per_prompt=1))]
    parts = by_part(config, prompts, search_config)
    table = [[part, f"{ms:.2f}", f"{ms / sum(parts.values()):.0%}"] for part, ms in parts.items()]
    print_table(["part", "ms an image", "share"], [*table, ["all", f"{sum(parts.values()):.2f}", ""]])
    together = batching(config, prompts, search_config, job)
    print()
    alone = together["one chain at a time"]
    print_table(
        ["drawn", "ms an image", "times"], [[n, f"{ms:.1f}", f"{alone / ms:.2f}"] for n, ms in together.items()]
    )
    figures = {"strategy": strategy, "ms_by_part": parts, "ms_by_batching": together, "num_prompts": len(prompts)}
    print(save("search_cost", circumstances, figures, compared_with="one chain at a time"))


def batching(
    config: SearchToolsConfig, prompts: list[str], search_config: SearchConfig, job: SearchJobConfig
) -> dict[str, float]:
    """Milliseconds an image of each way to draw the chains."""
    found = {}
    for name, (chains, batch) in TOGETHER.items():
        generator = config.generator.with_batch_size(batch or config.generator.batch_size)
        tools = replace(config, generator=generator).open()
        alone = batch != 0
        timed_search(prompts[:2], replace(search_config, depth=2), tools, chains, alone)
        some = prompts[: max(2, len(prompts) // 4)] if alone else prompts  # slow ways are timed on fewer
        seconds = timed_search(some, search_config, tools, chains, alone)
        found[name] = 1e3 * seconds / (len(some) * search_config.budget)
    return found


if __name__ == "__main__":
    run_command(main)
