"""How many numbers a file of weights holds, by its header alone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from schemas.errors import InputError

_HEADER_BYTES = 2**27  # no honest one is longer


def numbers_in(file: Path) -> int:
    """Of a safetensors file. InputError for one that does not read as that."""
    try:
        with open(file, "rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if length > _HEADER_BYTES:
                raise ValueError(f"a header of {length} bytes")
            header: Any = json.loads(opened.read(length))
        return sum(math.prod(entry["shape"]) for key, entry in header.items() if key != "__metadata__")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"does not read as safetensors: {error}", file=str(file)) from error
