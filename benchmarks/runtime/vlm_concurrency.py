"""How many requests in flight a vLLM wants: throughput against concurrency, and the same model in process.

`python -m benchmarks.runtime.vlm_concurrency` serves the micro VLM (or `--model DIR`), asks it the same comparisons of
image pairs at each concurrency, and then a VLM in this process, batched, as the obvious alternative.
"""

import time
from dataclasses import dataclass, replace

import numpy as np
import tyro

from benchmarks.results_file import Circumstances, print_table, save
from inference.interfaces import ChatRequest
from inference.vlm.endpoint import EndpointConfig, EndpointVlm
from inference.vlm.grid import image_grid
from inference.vlm.in_process import InProcessVlm
from inference.vlm.prompts import fill_prompt, load_prompt
from inference.vlm.vllm_server import VllmServer, VllmServerConfig
from microworld.family import micro_qwen
from microworld.scenes.captions import sample_scene, sample_training_caption
from microworld.scenes.edits import wrong_scene
from microworld.scenes.world import render


@dataclass(frozen=True)
class Arguments:
    """What is served, and how it is asked."""

    model: str = "micro/vlm"
    requests: int = 96
    concurrencies: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    device: str = "cpu"


def comparisons(number: int) -> list[ChatRequest]:
    """Pairs of scenes that differ by one operation, side by side."""
    rng = np.random.default_rng(17)
    template, requests = load_prompt("micro/compare"), []
    for _ in range(number):
        caption = sample_training_caption(rng)
        better = sample_scene(rng, caption)
        images = render([better, wrong_scene(rng, caption, better)[1]]).images
        requests.append(ChatRequest(fill_prompt(template, prompt=caption.text), image_grid(list(images))))
    return requests


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    circumstances = Circumstances.now("python -m benchmarks.runtime.vlm_concurrency")
    requests = comparisons(arguments.requests)
    server = VllmServer(
        VllmServerConfig(
            arguments.model,
            "float32" if arguments.device == "cpu" else "bfloat16",
            arguments=("--max-model-len", "1024", "--enforce-eager", "--no-enable-prefix-caching"),
            device=arguments.device,
        )
    )
    started = time.perf_counter()
    address = server.ensure()
    figures: dict[str, dict[str, float]] = {"start": {"seconds": time.perf_counter() - started}}
    base = EndpointConfig(address, arguments.model, max_new_tokens=256, constrain_json=False)
    EndpointVlm(replace(base, concurrency=8)).answer(requests[:8])
    for concurrency in arguments.concurrencies:
        figures[f"vLLM, {concurrency} in flight"] = _timed(
            EndpointVlm(replace(base, concurrency=concurrency)), requests
        )
    server.close()
    vlm = InProcessVlm(micro_qwen(arguments.model, device=arguments.device))
    vlm.answer(requests[:8])
    figures["in process, batches of 64"] = _timed(vlm, requests)
    rows = [
        [name, f"{f['requests_per_s']:.2f}", f"{f['tokens_per_s']:.0f}"]
        for name, f in figures.items()
        if "requests_per_s" in f
    ]
    print_table(["way", "requests/s", "tokens/s"], rows)
    save("vlm_concurrency", circumstances, figures, compared_with="the same requests, one after the other setting")


def _timed(vlm: InProcessVlm | EndpointVlm, requests: list[ChatRequest]) -> dict[str, float]:
    started = time.perf_counter()
    answers = vlm.answer(requests)
    seconds = time.perf_counter() - started
    tokens = sum(answer.num_tokens for answer in answers)
    return {"requests_per_s": len(requests) / seconds, "tokens_per_s": tokens / seconds, "tokens": tokens}


if __name__ == "__main__":
    main()
