"""`python -m tests.support.tiny_models KIND FOLDER`: a tiny model with random weights, to try commands with."""

import importlib
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path

import tests.support.tiny_models as package
from schemas.terminal import say, say_error


def saved_kinds() -> dict[str, Callable[[Path], Path]]:
    """Name -> what saves it in a folder: of every file here that has `KINDS`."""
    kinds: dict[str, Callable[[Path], Path]] = {}
    for found in pkgutil.iter_modules(package.__path__):
        if found.name != "__main__":
            kinds |= getattr(importlib.import_module(f"{package.__name__}.{found.name}"), "KINDS", {})
    return kinds


def main(argv: list[str]) -> int:
    kinds = saved_kinds()
    if len(argv) != 2 or argv[0] not in kinds:
        say_error("usage: python -m tests.support.tiny_models KIND FOLDER")
        say_error(f"kinds: {', '.join(sorted(kinds))}")
        return 2
    folder = Path(argv[1])
    if folder.exists() and any(folder.iterdir()):
        say_error(f"{folder} is not empty")
        return 2
    say(str(kinds[argv[0]](folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
