"""How fast do triplets come to a trainer, and how long does a training step wait for them?

`python -m benchmarks.dataset.shard_loading` makes shards, and reads them in training order with `PairLoader` (every
sample by its byte range, any order, resumable) and with `webdataset` as its own documentation reads tars (in file
order, through a shuffle buffer): decoded triplets a second, in this process and with workers, turn by turn. Then it
trains a corrector of the micro family a few steps in each way that its samples can come, and prints which share of a
step they take.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
import webdataset

from benchmarks.dataset.synthetic_images import photo_like
from benchmarks.results_file import Circumstances, print_table, save
from microworld.scenes.captions import sample_captioned_scene
from microworld.scenes.world import render
from recipes import micro, micro_gpu
from schemas.images import encode_jpeg, encode_png
from schemas.shards import ShardSample, encode_shard
from trainers.corrector import CorrectorTrainingConfig
from trainers.corrector import open_training as open_corrector
from trainers.shard_dataset import EVEN_MIX, PairLoader, TrainingOrder
from trainers.shard_encoder import EncodingConfig
from trainers.shard_index import open_index

TARGET = {"data share of a step": "under 0.02"}


@dataclass(frozen=True)
class Arguments:
    """What is read."""

    data: str = ""
    """Folder of shards to read; default: shards that are made for it."""
    size_px: int = 32
    """Of the made ones: 32 (micro scenes, PNG), or larger (photograph-like, JPEG)."""
    samples: int = 2000
    per_shard: int = 500
    repetitions: int = 3
    workers: tuple[int, ...] = (0, 2)
    train: bool = True
    """Measure training steps too (micro FLUX)."""
    steps: int = 12
    device: Literal["cpu", "cuda"] = "cpu"


def make_shards(folder: Path, arguments: Arguments) -> None:
    """`samples` triplets of the micro world, or of photograph-like pictures, subsets by turns."""
    rng = np.random.default_rng(0)
    pictures = [encode_jpeg(photo_like(seed, arguments.size_px)) for seed in range(8 if arguments.size_px > 32 else 0)]
    samples = []
    for number in range(arguments.samples):
        text, scene = sample_captioned_scene(rng)
        if pictures:
            good, bad = pictures[number % 8], pictures[(number + 3) % 8]
        else:
            good, bad = (encode_png(image) for image in render([scene, sample_captioned_scene(rng)[1]]).images)
        samples.append(
            ShardSample(
                key=f"u{number:06d}-r000-p00",
                good_image=good,
                bad_image=bad,
                reflection="Replace the blue star by a red star.",
                prompt=text,
                subset=("rule", "general", "length", "editing")[number % 4],
                image_format="jpg" if pictures else "png",
            )
        )
    folder.mkdir(parents=True)
    for start in range(0, len(samples), arguments.per_shard):
        part = samples[start : start + arguments.per_shard]
        (folder / f"genref_{start // arguments.per_shard:06d}.tar").write_bytes(encode_shard(part))


def read_ours(folder: Path, count: int, workers: int) -> int:
    """Triplets read."""
    order = TrainingOrder(open_index(str(folder), folder / "cache"), EVEN_MIX, 50, 0)
    return sum(len(batch) for batch in PairLoader(order, workers).batches(0, count, 50, 0, 1))


def read_webdataset(folder: Path, count: int, workers: int) -> int:
    """Samples read: shards shuffled, a buffer of 1000 shuffled, images decoded to uint8 arrays."""
    urls = sorted(str(path) for path in folder.glob("*.tar"))
    dataset = webdataset.WebDataset(urls, shardshuffle=len(urls)).shuffle(1000).decode("rgb8")
    loader = webdataset.WebLoader(dataset, batch_size=50, num_workers=workers, collate_fn=list)
    seen = 0
    for batch in loader:
        seen += len(batch)
        if seen >= count:
            break
    return seen


def rates(folder: Path, arguments: Arguments) -> list[dict[str, Any]]:
    """Triplets a second of each side, by number of workers."""
    sides: dict[str, Callable[[Path, int, int], int]] = {"ours": read_ours, "webdataset": read_webdataset}
    count = len(open_index(str(folder), folder / "cache"))
    rows = []
    for workers in arguments.workers:
        found: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(arguments.repetitions + 1):  # the first for warming up
            for name, read in sides.items():
                started = time.perf_counter()
                number = read(folder, count, workers)
                if turn:
                    found[name].append(number / (time.perf_counter() - started))
        medians = {name: statistics.median(values) for name, values in found.items()}
        rows.append({"workers": workers} | medians | {"ratio": medians["ours"] / medians["webdataset"]})
    return rows


class Stopwatch:
    """Sums up the time of one function."""

    def __init__(self) -> None:
        self.spent_s = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            with self.running():
                return function(*arguments)

        return timed

    @contextmanager
    def running(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.spent_s += time.perf_counter() - started


def training_step(config: CorrectorTrainingConfig, steps: int) -> dict[str, float]:
    """Seconds a step, and the shares that waiting for samples and making tensors of them take; the first third of the
    steps is not counted."""
    import torch

    training = open_corrector(config)
    trainable: Any = training.trainable
    making = Stopwatch()
    if trainable.encoded is not None:
        trainable.encoded.tensors = making.around(trainable.encoded.tensors)
    else:
        trainable._batches = making.around(trainable._batches)
    waited_s, started, made_before = 0.0, 0.0, 0.0
    first = steps // 3
    batches = training._batches()
    for step in range(steps):
        samples, wait_s = next(batches)
        if step == first:
            if config.flux.device == "cuda":
                torch.cuda.synchronize()
            waited_s, started, made_before = 0.0, time.perf_counter(), making.spent_s
        training._train_step(samples)
        training.step += 1
        waited_s += wait_s
    if config.flux.device == "cuda":
        torch.cuda.synchronize()
    whole_s = time.perf_counter() - started
    counted = steps - first
    return {
        "step_s": whole_s / counted,
        "samples_per_s": counted * config.loop.batch_size / whole_s,
        "waiting": waited_s / whole_s,
        "making tensors": (making.spent_s - made_before) / whole_s,
    }


def training_steps(folder: Path, out: Path, arguments: Arguments) -> dict[str, dict[str, float]]:
    """The ways in which samples come: files, encoded ahead, and with the noise of a whole step drawn at once."""
    on_gpu = arguments.device == "cuda"
    base = replace((micro_gpu if on_gpu else micro).corrector_training(), data=str(folder), out=out)
    base = replace(base, bf16=on_gpu, held_out_share=0.02, loop=replace(base.loop, steps=arguments.steps))
    ways = {
        "files, two workers": EncodingConfig(),
        "encoded ahead": EncodingConfig(ahead=True),
        "encoded ahead, fast noise": EncodingConfig(ahead=True, fast_noise=True),
    }
    return {
        name: training_step(replace(base, encode=way, out=out / str(number)), arguments.steps)
        for number, (name, way) in enumerate(ways.items())
    }


def main() -> None:
    """Read, train, print, save."""
    arguments = tyro.cli(Arguments, description=__doc__)
    circumstances = Circumstances.now("python -m benchmarks.dataset.shard_loading")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.data) if arguments.data else Path(temporary) / "shards"
        if not arguments.data:
            make_shards(folder, arguments)
        rows = rates(folder, arguments)
        steps = training_steps(folder, Path(temporary) / "out", arguments) if arguments.train else {}
    print_table(
        ["triplets a second, decoded", "ours", "webdataset", "ratio"],
        [[f"{r['workers']} workers", f"{r['ours']:.0f}", f"{r['webdataset']:.0f}", f"{r['ratio']:.2f}"] for r in rows],
    )
    if steps:
        print()
        print_table(
            [f"a training step on {arguments.device}", "samples/s", "seconds", "waiting", "making tensors"],
            [
                [
                    n,
                    f"{s['samples_per_s']:.0f}",
                    f"{s['step_s']:.4f}",
                    f"{s['waiting']:.3f}",
                    f"{s['making tensors']:.3f}",
                ]
                for n, s in steps.items()
            ],
        )
    figures = {"arguments": asdict(arguments) | {"data": bool(arguments.data)}, "rates": rows, "training": steps}
    save("shard_loading", circumstances, figures, f"webdataset {webdataset.__version__}, the same shards", TARGET)


if __name__ == "__main__":
    main()
