"""Weights are looked through once before a model is made of them: bytes as exported, whole files, and numbers.

A NaN in one tensor draws black images without a word. Everything that loads a model takes its place from here.
"""

from __future__ import annotations

import functools
import json
import logging
import re
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.model_store import resolve_model
from schemas.digests import check_manifest, file_stamp
from schemas.errors import CorruptDataError, InputError

if TYPE_CHECKING:
    import torch

_THREADS = 4
_FRESH_S = 2.0
_PIECE_BYTES = 2**26
_READ_BYTES = 2**20  # at once: what stays in a core's cache
_INFINITE: dict[str, tuple[str, int]] = {
    "F64": ("8", 0x7FF0_0000_0000_0000),
    "F32": ("4", 0x7F80_0000),
    "F16": ("2", 0x7C00),
    "BF16": ("2", 0x7F80),
    "F8_E5M2": ("1", 0x7C),
    "F8_E4M3": ("1", 0x7F),
}
"""By safetensors' names: bytes a value, and infinity as an integer of that width (of F8_E4M3, which has none, NaN's):
values that are as large or larger are infinite or no numbers; with the sign bit set, those of the other sign."""
_PICKLED = re.compile(r"(diffusion_pytorch_|open_clip_pytorch_|pytorch_|adapter_)?model[\w.-]*\.bin")
_COLORS = re.compile(r"\x1b\[[0-9;]*m")
_MISSING = re.compile(r"\| MISSING\b")
_WHOLE = "a whole model: fetch it again"
_EXPECTED = "weights of numbers: fetch the file again, or train it again"


def sound_model(name: str) -> Path:
    """`resolve_model`, and its weights are sound. MissingWeightsError; InputError (file) that names the tensor."""
    return sound_weights(resolve_model(name))


def sound_weights(place: Path) -> Path:
    """The same place, of a folder or a file of weights, whose bytes are as they were exported and whose tensors hold
    numbers. InputError (file) that names the tensor. In a folder the files that are read: of safetensors all that an
    index names, or all; pickled ones where there are none. The libraries that then load them draw no bars: who loads
    says so in a line of its own."""
    for name in ("transformers.utils.logging", "diffusers.utils.logging"):
        if (library := sys.modules.get(name)) is not None:  # whoever loads by it has imported it
            library.disable_progress_bar()
    if place.is_dir():
        try:
            check_manifest(place)
        except CorruptDataError as error:
            raise InputError(str(error), expected="the folder as it was exported, or a new export") from error
    for path in _weight_files(place):
        is_fresh = (
            abs(time.time() - path.stat().st_ctime) < _FRESH_S
        )  # it may change again within one tick of its clock
        (_check_file.__wrapped__ if is_fresh else _check_file)(path, file_stamp(path))
    return place


@contextmanager
def loaded_whole(place: Path) -> Iterator[None]:
    """Inside, diffusers and transformers load a model. InputError (file) that names tensors which its files lack: the
    libraries draw random numbers for them, and only say so."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = _COLORS.sub("", record.getMessage())
            if "newly initialized:" in text:
                said.append(text.partition("newly initialized:")[2].strip().splitlines()[0])
            said.extend(line.partition("|")[0].strip() for line in text.splitlines() if _MISSING.search(line))

    listener, loggers = Listener(logging.WARNING), [logging.getLogger(name) for name in ("diffusers", "transformers")]
    for logger in loggers:
        logger.addHandler(listener)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(listener)
    if said:
        raise InputError(
            f"its files lack tensors of the model: {', '.join(said)[:300]}", file=str(place), expected=_WHOLE
        )


def check_numbers(tensors: Mapping[str, torch.Tensor], file: Path) -> None:
    """InputError that names the first tensor of a state dict in memory with values that are no numbers."""
    import torch

    for name, tensor in tensors.items():
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and tensor.numel():
            few_bits = tensor.element_size() == 1
            if not _may_be_infinite(name) and not torch.isfinite(tensor.float() if few_bits else tensor).all():
                raise _no_numbers(name, file)


def _weight_files(place: Path) -> list[Path]:
    if not place.is_dir():
        return [place] if place.suffix == ".safetensors" else []  # of others, whoever reads them says what is in them
    found = [path for path in place.rglob("*") if path.suffix in (".safetensors", ".bin") and path.is_file()]
    inner = [path for path in found if not _is_hidden(path.relative_to(place))]
    if (place / "model_index.json").is_file():  # a pipeline: its models are in folders; beside them other forms of it
        inner = [path for path in inner if path.parent != place]
    files = []
    for folder in dict.fromkeys(path.parent for path in inner):
        here = [path for path in inner if path.parent == folder]
        safe = [path for path in here if path.suffix == ".safetensors"]
        named = set().union(*(_named_in(index) for index in folder.glob("*.safetensors.index.json")))
        files += [path for path in safe if not named or path.name in named]
        files += [path for path in here if not safe and _PICKLED.fullmatch(path.name)]
    return files


def _is_hidden(relative: Path) -> bool:
    """A training's own checkpoints lie beside what it exported, and are no part of that."""
    return any(part.startswith(".") for part in relative.parts) or "checkpoints" in relative.parts[:-1]


def _named_in(index: Path) -> set[str]:
    try:
        said = json.loads(index.read_bytes())["weight_map"].values()
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return set()
    return {name for name in said if isinstance(name, str)}


@functools.cache
def _check_file(path: Path, stamp: str) -> None:
    """stamp: of the file, so that one that changed is looked through again."""
    del stamp
    if path.suffix == ".safetensors":
        with ThreadPoolExecutor(_THREADS) as pool:
            sound = pool.map(lambda part: (part[0], _is_finite(path, *part[1:])), _parts(path))
            bad = next((name for name, is_sound in sound if not is_sound), None)
        if bad is not None:
            raise _no_numbers(bad, path)
        return
    import torch

    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # whatever it is, the library that loads it says so
        return
    if isinstance(tensors, dict):
        check_numbers(tensors, path)


def _parts(path: Path) -> Iterator[tuple[str, int, int, str]]:
    """(tensor's name, first byte, byte after the last, type) of the tensors of a safetensors file, of large ones in
    pieces. InputError for one that is cut short or no such file."""
    size = path.stat().st_size
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= size - 8:
                raise ValueError("its header is longer than the file")
            header: Any = json.loads(file.read(length))
        header.pop("__metadata__", None)
        whole = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if whole > size:
            raise ValueError(f"cut short: {size} bytes of {whole}")
        for name, entry in header.items():
            if entry["dtype"] in _INFINITE and not _may_be_infinite(name):
                start, stop = (8 + length + offset for offset in entry["data_offsets"])
                for first in range(start, stop, _PIECE_BYTES):
                    yield name, first, min(first + _PIECE_BYTES, stop), entry["dtype"]
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        raise InputError(f"does not read as safetensors: {error}", file=str(path), expected=_EXPECTED) from error


def _is_finite(path: Path, start: int, stop: int, dtype: str) -> bool:
    width, infinite = _INFINITE[dtype]
    negative = infinite | 1 << 8 * int(width) - 1
    room = np.empty(_READ_BYTES, np.uint8)
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        while start < stop:
            part = room[: min(_READ_BYTES, stop - start)]
            got = file.readinto(part.data)  # read, not mapped: the faults of a mapping take longer than the look
            values = part[: (got or 0) // int(width) * int(width)]
            if not len(values):
                return True  # a file that grows shorter meanwhile: the loader says so
            if values.view(f"<u{width}").max() >= negative or values.view(f"<i{width}").max() >= infinite:
                return False
            start += len(values)
            file.seek(start)
    return True


def _may_be_infinite(name: str) -> bool:
    """Masks of attention are minus infinity where nothing is seen, and some checkpoints carry them."""
    return "mask" in name.rpartition(".")[2]


def _no_numbers(name: str, file: Path) -> InputError:
    return InputError(
        f"tensor {name} holds values that are no numbers (NaN or infinite)", file=str(file), expected=_EXPECTED
    )
