"""Are our shards written and read as fast as plain webdataset writes and reads its own?

    python -m benchmarks.dataset.shard_io [--samples 200] [--repetitions 5]

The same samples (two 1024 px JPEGs of about 400 kB, three texts, provenance) go through `encode_shard` / `read_samples`
and through `webdataset.TarWriter` / `WebDataset`, on files in one folder, turn by turn. Each side writes with its
buffers flushed to the disk, and without. webdataset decodes texts and JSON as ours does, and once leaves all as bytes.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import webdataset

from benchmarks.dataset.synthetic_images import photo_like
from benchmarks.results_file import Circumstances, print_table, save
from schemas.images import encode_jpeg
from schemas.shards import ShardSample, encode_shard, member_digests, read_samples


@dataclass(frozen=True)
class Comparison:
    """Seconds of ours and of webdataset, medians over repetitions. ratio: ours / theirs; below one is faster."""

    what: str
    ours_s: float
    webdataset_s: float
    ratio: float
    ours_all_s: tuple[float, ...]
    webdataset_all_s: tuple[float, ...]


def make_samples(count: int) -> list[ShardSample]:
    """Samples whose pictures repeat every eight; their bytes do not matter to a tar."""
    pictures = [encode_jpeg(photo_like(seed, 1024)) for seed in range(8)]
    return [
        ShardSample(
            key=f"u{index // 8:06d}-r{index % 8:03d}-p00",
            good_image=pictures[index % 8],
            bad_image=pictures[(index + 3) % 8],
            reflection="Move the red bench to the left of the dog, and paint it green instead of red." * 2,
            prompt=f"a photo of a green bench left of a dog, number {index}",
            subset="rule",
            meta={"prompt_id": f"p{index:06d}", "good": {"seed": index, "score": 0.9}, "bad": {"seed": -index}},
        )
        for index in range(count)
    ]


def write_ours(samples: Sequence[ShardSample], path: Path) -> None:
    """As a run packs a shard, its checksums aside."""
    path.write_bytes(encode_shard(samples))


def write_webdataset(samples: Sequence[ShardSample], path: Path) -> None:
    """As webdataset's own documentation does it."""
    with webdataset.TarWriter(str(path)) as writer:
        for sample in samples:
            writer.write(
                {
                    "__key__": sample.key,
                    "good_image.jpg": sample.good_image,
                    "bad_image.jpg": sample.bad_image,
                    "reflection.txt": sample.reflection,
                    "prompt.txt": sample.prompt,
                    "subset.txt": sample.subset,
                    "meta.json": sample.meta,
                }
            )


def to_disk(write: Callable[[Sequence[ShardSample], Path], None]) -> Callable[[Sequence[ShardSample], Path], None]:
    """The same, and the file's bytes are on the disk at the end."""

    def write_and_sync(samples: Sequence[ShardSample], path: Path) -> None:
        write(samples, path)
        with open(path, "rb") as file:
            os.fsync(file.fileno())

    return write_and_sync


def read_ours(path: Path) -> int:
    """Number of samples read."""
    with open(path, "rb") as file:
        return sum(1 for _ in read_samples(file, str(path)))


def read_webdataset(path: Path) -> int:
    """Number of samples read, all members left as bytes."""
    return sum(1 for _ in webdataset.WebDataset(str(path), shardshuffle=False))


def read_webdataset_decoded(path: Path) -> int:
    """Number of samples read, texts and JSON decoded, images as bytes: what `read_samples` gives."""
    return sum(1 for _ in webdataset.WebDataset(str(path), shardshuffle=False).decode())


def compare(what: str, ours: Callable[[], object], theirs: Callable[[], object], repetitions: int) -> Comparison:
    """Turn by turn, the first turn for warming up."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(repetitions + 1):
        for side, call in zip(seconds, (ours, theirs), strict=True):
            os.sync()  # what the other side left to be written is not this side's work
            started = time.perf_counter()
            call()
            if turn:
                side.append(round(time.perf_counter() - started, 4))
    medians = [statistics.median(side) for side in seconds]
    ratio = round(medians[0] / medians[1], 3)
    return Comparison(what, round(medians[0], 4), round(medians[1], 4), ratio, tuple(seconds[0]), tuple(seconds[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    circumstances = Circumstances.now("python -m benchmarks.dataset.shard_io")
    samples = make_samples(arguments.samples)
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder) / "ours.tar", Path(folder) / "webdataset.tar"
        synced_ours, synced_theirs = to_disk(write_ours), to_disk(write_webdataset)
        n = arguments.repetitions
        rows = [
            compare("write", lambda: write_ours(samples, ours), lambda: write_webdataset(samples, theirs), n),
            compare("write to disk", lambda: synced_ours(samples, ours), lambda: synced_theirs(samples, theirs), n),
            compare("read, decoded", lambda: read_ours(ours), lambda: read_webdataset_decoded(theirs), n),
            compare("read, theirs as bytes", lambda: read_ours(ours), lambda: read_webdataset(theirs), n),
        ]
        # Each side reads the other's file: it is one format.
        same = read_webdataset_decoded(ours) == read_ours(theirs) == len(samples)
    started = time.perf_counter()
    member_digests(samples)
    checksums_s = round(time.perf_counter() - started, 3)
    image_kb = sum(len(s.good_image) + len(s.bad_image) for s in samples) / len(samples) / 2000
    print(f"{len(samples)} samples, two images of {image_kb:.0f} kB each; ratio below 1: ours is faster")
    print_table(
        ["", "ours", "webdataset", "ratio"],
        [[row.what, f"{row.ours_s:.3f} s", f"{row.webdataset_s:.3f} s", f"{row.ratio:.2f}"] for row in rows],
    )
    print(f"checksums of every member for the sidecar, which webdataset has none of: {checksums_s:.3f} s a shard")
    figures = {
        "samples": len(samples),
        "image_kb": round(image_kb),
        "repetitions": n,
        "rows": [asdict(row) for row in rows],
        "each_reads_the_other": same,
        "checksums_s": checksums_s,
    }
    compared = f"webdataset {webdataset.__version__}, same samples, same folder, turn by turn, medians"
    save("shard_io", circumstances, figures, compared, target={"ratio": "at most 1"})


if __name__ == "__main__":
    main()
