"""Triplets run through FLUX's frozen VAE and text encoders, a file for each shard, made once.

A file holds, row by row of its shard's index (safetensors):

    good (n, N, c), bad (n, M, c)     packed latents of both images, as they will be shown
    differs uint8 (n, N)              tokens under which the images differ
    size int32 (n,)                   which of several sizes each triplet has; then each size's rows of the three above
                                      stand by themselves: good.1152x896 (m, N, c), ...
    pooled (n, d)                     CLIP's vector of the prompt
    lengths, texts int32 (n, 2)       for the prompt, and for prompt and reflection: padded length, and row of
    states.<length> (u, length, d)    T5's states of each distinct text
    broken uint8 (n,)                 triplets that do not read
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from inference.flux.corrector import corrector_text
from inference.flux.latents import condition_size, encode_images, token_grid, token_px
from inference.model_store import model_digest
from schemas.atomic_file import replacing, write_whole
from schemas.configuration import resumable_field
from schemas.digests import file_digest, file_stamp
from schemas.errors import CorruptDataError
from schemas.image_size import ImageSize
from schemas.images import decode_image
from schemas.shards import ShardSample
from trainers.corrector_batches import BatchConfig, bucket_of, cells_that_differ, shaped
from trainers.shard_index import ShardIndex, read_shard

if TYPE_CHECKING:
    import torch

    from inference.flux.generator import FluxGenerator

log = logging.getLogger(__name__)
T = TypeVar("T")

STATES = "states."
_VERSION = 2


@dataclass(frozen=True)
class EncodingConfig:
    """Encoding all triplets before the first step."""

    ahead: bool = False
    """Encode everything first and train from that: no VAE, text encoder or image file in a step."""
    dtype: Literal["float16", "float32"] = "float16"
    """Of what is kept."""
    keep_on: Literal["device", "memory", "disk"] = resumable_field("device")
    """From where it is taken: beside the model, main memory, or the cache's files (sample by sample)."""
    batch_size: int = resumable_field(256)
    """Images, or texts, an encoder's forward pass."""
    threads: int = resumable_field(4)
    """Decode images."""
    fast_noise: bool = False
    """Times, noises and drops are drawn for a whole step at once, on the device, from (seed, step): other numbers than
    without, the same after a restart and on any number of workers, but not the same on CPU and GPU."""
    cache: Path | None = resumable_field(None)
    """Folder of what was encoded; default: `out/cache`."""


@dataclass(frozen=True)
class _Pair:
    """Both images as they will be shown, uint8 (H, W, 3); black ones for a triplet that does not read."""

    good: np.ndarray
    bad: np.ndarray
    prompt: str
    reflection: str
    is_broken: bool = False

    @property
    def size(self) -> ImageSize:
        return ImageSize.of(self.good)


class ShardEncoder:
    """Holds the frozen encoders."""

    def __init__(self, generator: FluxGenerator, batch: BatchConfig, config: EncodingConfig, cache: Path) -> None:
        self._generator, self._batch, self._config, self._cache = generator, batch, config, cache

    def file_of(self, index: ShardIndex, number: int) -> Path:
        """The file of one shard's triplets, made where it is not there; index: all of the shard's."""
        from safetensors.torch import save_file

        path = self._cache / f"encoded_{self._key(index, number)}.safetensors"
        if not _is_as_written(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                save_file({name: value.contiguous() for name, value in self._encode(index, number).items()}, temporary)
                digest = file_digest(temporary)
            _remember(path, digest)
        return path

    def _key(self, index: ShardIndex, number: int) -> str:
        rows = index.shard == number
        drawn, sizes = self._generator.config, (self._batch.size_px, self._batch.condition_px, *self._batch.sizes)
        how = (_VERSION, sizes, self._config.dtype, drawn.text_lengths, drawn.dtype)
        digest = hashlib.sha256(repr((index.digests[number], how)).encode())
        digest.update(model_digest(drawn.model).encode())
        digest.update(index.start[rows].tobytes() + index.stop[rows].tobytes())
        return digest.hexdigest()[:16]

    def _encode(self, index: ShardIndex, number: int) -> dict[str, torch.Tensor]:
        import torch

        pipeline, buckets = self._generator.pipeline, self._batch.buckets
        latents: dict[str, list[torch.Tensor]] = {}
        prompts, told, broken, sizes = [], [], [], []
        with ThreadPoolExecutor(self._config.threads) as pool:
            for samples in _chunks(read_shard(index, number), self._config.batch_size):
                pairs = list(pool.map(self._pair, samples))
                for size in buckets:
                    mine, suffix = [pair for pair in pairs if pair.size == size], size_suffix(self._batch, size)
                    if not mine:
                        continue
                    differs = [cells_that_differ(pair.good, pair.bad, token_grid(pipeline, size)) for pair in mine]
                    for name, tensor in (
                        ("good", self.latents([pair.good for pair in mine], size)),
                        ("bad", self.latents([pair.bad for pair in mine], self.shown(size))),
                        ("differs", torch.from_numpy(np.array(differs, np.uint8))),
                    ):
                        latents.setdefault(name + suffix, []).append(tensor)
                sizes += [buckets.index(pair.size) for pair in pairs]
                prompts += [pair.prompt for pair in pairs]
                told += [corrector_text(pair.prompt, pair.reflection) for pair in pairs]
                broken += [pair.is_broken for pair in pairs]
        tensors = {name: torch.cat(parts) for name, parts in latents.items()}
        if self._batch.sizes:
            tensors["size"] = torch.tensor(sizes, dtype=torch.int32)
        return {
            **tensors,
            "pooled": self._pooled(prompts),
            "broken": torch.tensor(broken, dtype=torch.uint8),
        } | self._texts(prompts, told)

    def _pair(self, sample: ShardSample | CorruptDataError) -> _Pair:
        try:
            if isinstance(sample, CorruptDataError):
                raise sample
            good = decode_image(sample.good_image, f"{sample.key}.good_image")
            bad = decode_image(sample.bad_image, f"{sample.key}.bad_image")
        except CorruptDataError as error:
            log.warning("sample skipped: %s", error)
            size = self._batch.buckets[0]
            black = np.zeros((size.height, size.width, 3), np.uint8)
            return _Pair(black, black, "", "", is_broken=True)
        good, bad = shaped(good, bad, bucket_of(good, self._batch.buckets), lambda room: room // 2)
        return _Pair(good, bad, sample.prompt, sample.reflection)

    def _texts(self, prompts: Sequence[str], told: Sequence[str]) -> dict[str, torch.Tensor]:
        """`lengths`, `texts` and the states of each distinct text."""
        import torch

        by_length: dict[int, dict[str, int]] = {}
        place: dict[str, tuple[int, int]] = {}
        for text in dict.fromkeys([*prompts, *told]):
            length = self._generator.text_length(text)
            rows = by_length.setdefault(length, {})
            place[text] = (length, rows.setdefault(text, len(rows)))
        found = torch.tensor([[place[p], place[t]] for p, t in zip(prompts, told, strict=True)], dtype=torch.int32)
        states = {f"{STATES}{n}": self.text_states(list(rows), n) for n, rows in sorted(by_length.items())}
        return {"lengths": found[:, :, 0].contiguous(), "texts": found[:, :, 1].contiguous()} | states

    def shown(self, size: ImageSize) -> ImageSize:
        """How large a flawed image is shown where one of `size` is to be drawn."""
        return condition_size(size, self._batch.condition_px, token_px(self._generator.pipeline))

    def latents(self, images: Sequence[np.ndarray], size: ImageSize) -> torch.Tensor:
        """(n, tokens, channels) of the configured dtype, on the CPU."""
        return self._in_batches(lambda some: encode_images(self._generator.pipeline, some, size), images)

    def text_states(self, texts: Sequence[str], length: int) -> torch.Tensor:
        """T5's states (n, length, d)."""
        pipeline = self._generator.pipeline
        return self._in_batches(
            lambda some: pipeline._get_t5_prompt_embeds(prompt=list(some), max_sequence_length=length), texts
        )

    def _pooled(self, prompts: Sequence[str]) -> torch.Tensor:
        """CLIP's vectors (n, d)."""
        pipeline, distinct = self._generator.pipeline, list(dict.fromkeys(prompts))
        vectors = self._in_batches(lambda some: pipeline._get_clip_prompt_embeds(prompt=list(some)), distinct)
        rows = {prompt: row for row, prompt in enumerate(distinct)}
        return vectors[[rows[prompt] for prompt in prompts]]

    def _in_batches(self, encode: Callable[[Sequence[Any]], torch.Tensor], items: Sequence[Any]) -> torch.Tensor:
        import torch

        dtype, size = getattr(torch, self._config.dtype), self._config.batch_size
        with torch.no_grad():
            return torch.cat([encode(items[i : i + size]).to("cpu", dtype) for i in range(0, len(items), size)])


def size_suffix(batch: BatchConfig, size: ImageSize) -> str:
    """What the names of a size's tensors end with: nothing where all images are of one size."""
    return f".{size}" if batch.sizes else ""


def _is_as_written(path: Path) -> bool:
    """Whether a file of the cache is there, and has its bytes; one that has others is named. It is read through where
    its times changed."""
    beside = _digest_file(path)
    try:
        said, stamp = json.loads(beside.read_bytes()), file_stamp(path)
        if said["stamp"] == stamp:
            return True
        digest = file_digest(path)
        if said["sha256"] == digest:
            _remember(path, digest)
            return True
    except FileNotFoundError:
        return False
    except (ValueError, TypeError, KeyError):
        log.warning("%s does not read", beside)
    log.warning("%s has other bytes than were written, and is made again", path)
    return False


def _remember(path: Path, digest: str) -> None:
    write_whole(_digest_file(path), json.dumps({"sha256": digest, "stamp": file_stamp(path)}))


def _digest_file(path: Path) -> Path:
    return path.with_name(f"digest_of_{path.stem}.json")


def _chunks(samples: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(samples)
    while chunk := list(islice(rest, size)):
        yield chunk
