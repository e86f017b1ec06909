"""Paths and URIs as users write them. Kept apart from the storages, which take long to import."""

import os
import re
from pathlib import Path
from urllib.parse import unquote

from schemas.errors import InputError

_SCHEME = re.compile(r"(s3[an]?|gc?s|abfss?|az|wasbs?|hdfs|hf|https?|file):(/*)(.*)", re.IGNORECASE | re.DOTALL)
_SAME_AS = {"s3a": "s3", "s3n": "s3"}


def checked_place(place: str) -> str:
    """A path or URI as it is meant: `~` expanded, a file:// URI as its path. InputError for a URI that is misspelt
    (s3:/bucket, S3://bucket, s3:bucket), and for the home of nobody."""
    if not place or "\0" in place:
        raise InputError(f"{place!r} is no place", expected="a folder or a URI, such as runs/demo or s3://bucket/run")
    found = _SCHEME.fullmatch(place)
    if found is None or Path(place).exists():
        return _with_home(place)
    scheme, slashes, rest = found[1], found[2], found[3]
    if scheme == "file" and len(slashes) == 3:
        return "/" + unquote(rest)
    right = _SAME_AS.get(scheme.lower(), scheme.lower())
    if scheme != right or len(slashes) != 2 or not rest or right == "file":
        meant = f"file:///{rest}" if right == "file" else f"{right}://{rest or 'BUCKET'}"
        raise InputError(f"{place!r} is no URI", expected=f"{meant} (or ./{place} for a folder of that name)")
    return place


def local_path(place: Path) -> Path:
    """A path of this machine. InputError for a URI, which would be a folder of that name."""
    if _SCHEME.fullmatch(str(place)) and not place.exists():
        raise InputError(f"{place}: only places on this machine are known here", expected="a path, and no URI")
    return Path(_with_home(str(place)))


def _with_home(path: str) -> str:
    expanded = os.path.expanduser(path)
    if expanded.startswith("~") and not Path(path).exists():
        raise InputError(f"{path!r}: nobody of that name has a home here", expected=f"a path (or ./{path})")
    return expanded
