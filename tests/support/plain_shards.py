"""Shards whose samples hold next to nothing, each known by its number: for what reads and orders them."""

from dataclasses import replace

import numpy as np

from schemas.images import encode_jpeg
from schemas.shards import ShardSample, encode_shard


def grey_jpeg(value):
    """An image of 8x8 equal pixels."""
    return encode_jpeg(np.full((8, 8, 3), value, np.uint8))


def plain_sample(number, subset, good=None, **changes):
    """Sample `number`, which its texts and its good image say; changes: fields."""
    whole = ShardSample(
        key=f"u{number:06d}-r000-p00",
        good_image=grey_jpeg(number % 200) if good is None else good,
        bad_image=grey_jpeg(255),
        reflection=f"reflection {number}",
        prompt=f"prompt {number}",
        subset=subset,
        meta={"number": number},
    )
    return replace(whole, **changes)


def write_shards(folder, subsets, per_shard=7, broken=(), **changes):
    """One sample for each subset name, in shards; changes: fields of every sample."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = [plain_sample(i, name, b"no image" if i in broken else None, **changes) for i, name in enumerate(subsets)]
    for start in range(0, len(samples), per_shard):
        (folder / f"genref_{start // per_shard:06d}.tar").write_bytes(encode_shard(samples[start : start + per_shard]))
    return folder
