"""Small text files that a reader sees whole or not at all."""

import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Write `text` as UTF-8 under a temporary name beside `path`, then rename it; folders are made as needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own, so that two writers of one file do not write into each other's half.
    descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    try:
        with open(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(partial, 0o644)  # mkstemp's files are for their owner alone
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise
