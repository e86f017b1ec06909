"""What it costs to bring images to a VLM at an address: each request's own PNG, one after the other, before the first
request leaves, against each image once, in the threads that send.

`python -m benchmarks.runtime.image_encoding` makes requests that show each image twice (as pairs are compared in both
orders), and does with them all that is done until they could be sent: keys for the journal, and encoded images.
"""

import base64
import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import get_args

import numpy as np
import tyro
from PIL import Image

from benchmarks.results_file import Circumstances, print_table, save
from inference.vlm.pictures import EncodedOnce, ImageFormat, data_url, digest
from schemas.images import encode_png


@dataclass(frozen=True)
class Arguments:
    """How many images, and of which size."""

    images: int = 8
    size_px: int = 1024
    concurrency: int = 16


def photos(number: int, size_px: int) -> list[np.ndarray]:
    """Smooth colours with a camera's noise: as hard to pack as a photo, unlike drawn shapes."""
    found = []
    for seed in range(number):
        rng = np.random.default_rng(seed)
        coarse = Image.fromarray(rng.integers(0, 256, (size_px // 16, size_px // 16, 3), np.uint8))
        smooth = np.asarray(coarse.resize((size_px, size_px), Image.Resampling.BICUBIC)).astype(float)
        found.append((smooth + rng.normal(0, 4, smooth.shape)).clip(0, 255).astype(np.uint8))
    return found


def serially(images: list[np.ndarray]) -> int:
    """Pillow's PNG, again for each request, and the key from its text. Bytes of all requests."""
    total = 0
    for image in [*images, *images]:
        url = base64.b64encode(encode_png(image)).decode()
        hashlib.sha256(url.encode()).hexdigest()
        total += len(url)
    return total


def once_in_threads(images: list[np.ndarray], image_format: ImageFormat, concurrency: int) -> int:
    """As `EndpointVlm` does. Bytes of all requests."""
    with ThreadPoolExecutor() as pool:
        names = list(pool.map(digest, images))
    encoded = EncodedOnce([*names, *names], image_format, 0)

    def send(number: int) -> int:
        url = encoded.url(names[number], images[number])
        encoded.done(names[number])
        return len(url)

    with ThreadPoolExecutor(concurrency) as pool:
        return sum(pool.map(send, [*range(len(images)), *range(len(images))]))


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    circumstances = Circumstances.now("python -m benchmarks.runtime.image_encoding")
    images = photos(arguments.images, arguments.size_px)
    figures = {"PNG by Pillow, serially": _timed(lambda: serially(images), images)}
    for image_format in get_args(ImageFormat):
        data_url(images[0], image_format)
        figures[f"{image_format}, once, in threads"] = _timed(
            lambda image_format=image_format: once_in_threads(images, image_format, arguments.concurrency), images
        )
    base = figures["PNG by Pillow, serially"]["seconds_a_request"]
    for row in figures.values():
        row["times_as_fast"] = base / row["seconds_a_request"]
    rows = [
        [
            name,
            *(f"{f[column]:.3f}" for column in ("seconds_a_request", "cpu_s_a_request", "megabytes", "times_as_fast")),
        ]
        for name, f in figures.items()
    ]
    print_table(["way", "s a request", "CPU s a request", "MB a request", "times as fast"], rows)
    save("image_encoding", circumstances, figures, compared_with="PNG by Pillow for each request, serially")


def _timed(run: Callable[[], int], images: list[np.ndarray]) -> dict[str, float]:
    started, cpu = time.perf_counter(), time.process_time()
    total, requests = run(), 2 * len(images)
    return {
        "seconds_a_request": (time.perf_counter() - started) / requests,
        "cpu_s_a_request": (time.process_time() - cpu) / requests,
        "megabytes": total / requests / 1e6,
    }


if __name__ == "__main__":
    main()
