"""One name for everything: `reflectionflow.inference`, `.trainers`, `.pipelines`, `.schemas` and what belongs to them.

Installed, these packages lie inside this one, so that they take no other names in an environment (`setup.py`). In a
checkout they lie beside it, at the repository's top, and `reflectionflow.inference` is `inference`: the same module."""

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

__version__ = "0.1.0"
PACKAGES = ("schemas", "inference", "trainers", "pipelines", "microworld", "recipes", "commands")


class _Beside(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds `reflectionflow.schemas` where `schemas` is."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        own = fullname.split(".")[:1] == [__name__] and fullname.split(".")[1:2]
        return importlib.machinery.ModuleSpec(fullname, self) if own and own[0] in PACKAGES else None

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = importlib.import_module(module.__name__.partition(".")[2])


if not (Path(__file__).parent / PACKAGES[0]).is_dir():
    sys.meta_path.insert(0, _Beside())
