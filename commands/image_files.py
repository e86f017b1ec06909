"""Image files named on a command line, or found in a folder: all of them are looked at before a model is loaded."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from schemas.errors import CorruptDataError, InputError
from schemas.images import FORMATS, decode_image, sha256
from schemas.named_file import MAX_IMAGE_BYTES, read_file
from schemas.terminal import say_error

_MAX_NAMED = 20
_EXPECTED = f"an image: {', '.join(FORMATS)}"


def read_images(paths: Sequence[Path], skip_bad: bool = False) -> tuple[list[Path], list[np.ndarray]]:
    """Files, and uint8 (H, W, 3) of each. InputError that names every file that does not read as an image, or, with
    skip_bad, a warning and the others. InputError for none."""
    if not paths:
        raise InputError("no images", field="images", expected="one or more image files")
    found = [_read(path) for path in paths]
    say_faults([image for image in found if isinstance(image, InputError)], skip_bad)
    read = [(path, i) for path, i in zip(paths, found, strict=True) if not isinstance(i, InputError)]
    if not read:
        raise InputError("none of the files reads as an image", field="images", expected=_EXPECTED)
    return [path for path, _ in read], [image for _, image in read]


def read_image(path: Path) -> np.ndarray:
    """uint8 (H, W, 3). InputError."""
    found = _read(path)
    if isinstance(found, InputError):
        raise found
    return found


def check_images(paths: Sequence[Path]) -> list[str | InputError]:
    """The SHA-256 of each file that reads as an image, decoded to its end; what is wrong with each other."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(_digest, paths))


def say_faults(faults: Sequence[InputError], skip_bad: bool) -> None:
    """InputError for all of them together; with skip_bad they are named on stderr."""
    if not faults:
        return
    shown = [str(fault) for fault in faults[:_MAX_NAMED]]
    shown += [f"and {len(faults) - _MAX_NAMED} more"] if len(faults) > _MAX_NAMED else []
    if skip_bad:
        say_error("\n".join(f"skipped: {text}" for text in shown))
    elif len(faults) == 1:
        raise faults[0]
    else:
        listed = "\n".join(f"  {text}" for text in shown)
        raise InputError(f"{len(faults)} files do not do:\n{listed}", expected="none of them, or --skip-bad")


def _digest(path: Path) -> str | InputError:
    try:
        data = read_file(path, MAX_IMAGE_BYTES, _EXPECTED)
        decode_image(data)
        return sha256(data)
    except CorruptDataError as error:
        return InputError(str(error), file=str(path), expected=_EXPECTED)
    except InputError as error:
        return error


def _read(path: Path) -> np.ndarray | InputError:
    try:
        return decode_image(read_file(path, MAX_IMAGE_BYTES, _EXPECTED))
    except CorruptDataError as error:
        return InputError(str(error), file=str(path), expected=_EXPECTED)
    except InputError as error:
        return error
