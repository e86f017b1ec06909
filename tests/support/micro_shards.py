"""Shards of micro-world edits, as a run would pack them."""

from microworld.scenes.edit_file import sample_edit_row
from microworld.scenes.long_captions import describe
from schemas.images import decode_image, encode_jpeg
from schemas.shards import ShardSample, encode_shard


def write_micro_shards(
    folder, count=24, per_shard=8, subsets=("editing", "rule"), metas=(None,), cots=(None,), jpeg=False
):
    """`count` triplets, subsets (and `meta.json`, `cot.json`) by turns, images PNG or JPEG; captions are truths of the
    edited scene."""
    import numpy as np

    from microworld.scenes.edit_file import sample_edit_scenes

    folder.mkdir(parents=True, exist_ok=True)
    samples = []
    for number in range(count):
        values = sample_edit_row(11, number, 0.0)
        _, after, _, _ = sample_edit_scenes(11, number, 0.0)
        samples.append(
            ShardSample(
                key=f"u{number:06d}-r000-p00",
                good_image=_as_jpeg(values["edited_img"]) if jpeg else values["edited_img"],
                bad_image=_as_jpeg(values["src_img"]) if jpeg else values["src_img"],
                reflection=values["edited_prompt_list"][0],
                prompt=describe(after, np.random.default_rng(number)) if after.objects else "an empty image",
                subset=subsets[number % len(subsets)],
                meta=metas[number % len(metas)],
                image_format="jpg" if jpeg else "png",
                cot=cots[number % len(cots)],
            )
        )
    for start in range(0, count, per_shard):
        (folder / f"genref_{start // per_shard:06d}.tar").write_bytes(encode_shard(samples[start : start + per_shard]))
    return folder


def _as_jpeg(png):
    return encode_jpeg(decode_image(png, "a PNG"))
