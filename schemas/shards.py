"""WebDataset shards that the published GenRef loaders read, with provenance beside the five members they know.

One sample = `<key>.good_image.jpg`, `<key>.bad_image.jpg`, `<key>.reflection.txt`, `<key>.prompt.txt`,
`<key>.subset.txt`, `<key>.meta.json` and `<key>.cot.json`, which is `null` where no reasoning came with the reflection
(many readers refuse samples with other members than their neighbours). Members of a sample are adjacent; times and
owners are fixed, so equal samples give equal bytes. Each shard has a sidecar `<name>.json`; `index.json` lists all.
"""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from schemas.checked_json import parse_object
from schemas.errors import CorruptDataError
from schemas.tar_members import of_a_sample, split_member_name, tar_members

KEY_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,100}")
_NAME = re.compile(r"genref_[0-9]{6,12}\.(tar|json)")
TEXT_MEMBERS = ("reflection.txt", "prompt.txt", "subset.txt")
IMAGE_SUFFIXES = ("jpg", "png")


@dataclass(frozen=True)
class ShardSample:
    """One triplet. Images are encoded bytes in `image_format` ("jpg" or "png"); meta and cot are plain JSON data."""

    key: str
    good_image: bytes
    bad_image: bytes
    reflection: str
    prompt: str
    subset: str
    meta: dict[str, Any] | None = None
    image_format: str = "jpg"
    cot: dict[str, Any] | None = None

    def members(self) -> list[tuple[str, bytes]]:
        """(file name, bytes) in the order in which they lie in the tar."""
        named = [
            (f"good_image.{self.image_format}", self.good_image),
            (f"bad_image.{self.image_format}", self.bad_image),
            ("reflection.txt", self.reflection.encode()),
            ("prompt.txt", self.prompt.encode()),
            ("subset.txt", self.subset.encode()),
        ]
        if self.meta is not None:
            named.append(("meta.json", json.dumps(self.meta, sort_keys=True, ensure_ascii=False).encode()))
        if self.meta is not None or self.cot is not None:
            named.append(("cot.json", json.dumps(self.cot, sort_keys=True, ensure_ascii=False).encode()))
        return [(f"{self.key}.{name}", data) for name, data in named]


@dataclass(frozen=True)
class ShardSidecar:
    """What is known of a shard without opening it. units: first and one past the last. inputs: key of what it holds."""

    name: str
    inputs: str
    first_unit: int
    end_unit: int
    num_samples: int
    num_samples_by_subset: dict[str, int]
    num_bytes: int
    sha256: str
    members_sha256: dict[str, str]


def shard_name(index: int) -> str:
    """`genref_000000.tar`."""
    return f"genref_{index:06d}.tar"


def sidecar_name(index: int) -> str:
    """`genref_000000.json`."""
    return f"genref_{index:06d}.json"


def is_shard(name: str) -> bool:
    """Whether a file is called as a run's shard or sidecar."""
    return _NAME.fullmatch(name) is not None


def encode_shard(samples: Sequence[ShardSample]) -> bytes:
    """A tar of the samples in the order given. ValueError for a key that is not unique or not `KEY_PATTERN`."""
    seen: set[str] = set()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in samples:
            if not KEY_PATTERN.fullmatch(sample.key) or sample.key in seen:
                raise ValueError(f"shard key {sample.key!r} is malformed or not unique")
            seen.add(sample.key)
            for name, data in sample.members():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                info.mode = 0o644
                tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def member_digests(samples: Sequence[ShardSample]) -> dict[str, str]:
    """SHA-256 of every member by name."""
    return {name: hashlib.sha256(data).hexdigest() for sample in samples for name, data in sample.members()}


def read_members(data: bytes | BinaryIO, where: str, in_folders: bool = False) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of every member, in order; nothing is ever written to disk. data: a file is read member by member.
    in_folders: names may have folders before them, as others' shards do, and what belongs to no sample is passed over.

    CorruptDataError for a tar that is not whole, a member that is no plain file, is too large, or whose name points
    elsewhere.
    """
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    for member in tar_members(file, where):
        if in_folders and not of_a_sample(member):
            continue
        base = member.name.rpartition("/")[2] if in_folders else member.name
        if "/" in base or "\\" in member.name or base.startswith("."):
            raise CorruptDataError(f"{where}: member {member.name!r} is not a plain file in the shard's root")
        yield member.name, member.read(file, where)


def read_samples(data: bytes | BinaryIO, where: str, in_folders: bool = False) -> Iterator[ShardSample]:
    """Samples of a shard of ours or a published one (without `meta.json`), one in memory at a time when data is a file.
    in_folders: see `read_members`. CorruptDataError names what is missing."""
    seen: set[str] = set()
    current, members = "", {}
    for name, body in read_members(data, where, in_folders):
        key, suffix = split_member_name(name)
        if key != current:
            if members:
                yield _sample(current, members, where)
            if key in seen:
                raise CorruptDataError(f"{where}: member {name!r} does not lie beside the others of its sample")
            seen.add(key)
            current, members = key, {}
        if suffix in members:
            raise CorruptDataError(f"{where}: member {name!r} comes twice")
        members[suffix] = body
    if members:
        yield _sample(current, members, where)


def decode_shard(data: bytes | BinaryIO, where: str) -> list[ShardSample]:
    """All samples of a shard: see `read_samples`."""
    return list(read_samples(data, where))


def _sample(key: str, members: dict[str, bytes], where: str) -> ShardSample:
    formats = [f for f in IMAGE_SUFFIXES if f"good_image.{f}" in members and f"bad_image.{f}" in members]
    missing = [name for name in TEXT_MEMBERS if name not in members]
    if not formats or missing:
        lacking = ", ".join(([] if formats else ["good_image and bad_image"]) + missing)
        raise CorruptDataError(f"{where}: sample {key!r} lacks {lacking}")
    try:
        reflection, prompt, subset = (members[name].decode() for name in TEXT_MEMBERS)
    except UnicodeDecodeError as error:
        raise CorruptDataError(f"{where}: sample {key!r}: {error}") from error
    meta, cot = (
        None
        if members.get(name, b"null") == b"null"
        else parse_object(members[name], f"{where}: sample {key!r}: {said}")
        for name, said in (("meta.json", "its meta.json"), ("cot.json", "its cot.json is no comparison: it"))
    )
    image_format = formats[0]
    return ShardSample(
        key=key,
        good_image=members[f"good_image.{image_format}"],
        bad_image=members[f"bad_image.{image_format}"],
        reflection=reflection,
        prompt=prompt,
        subset=subset,
        meta=meta,
        image_format=image_format,
        cot=cot,
    )
