"""Where this project's own modules are: at the top of an import path in a checkout, inside `reflectionflow` once they
are installed."""

import importlib
from pathlib import Path

_WITHIN = __name__.removesuffix("schemas.own_modules")
INSTALLED = _WITHIN != ""
"""Whether this is the installed package."""
IMPORT_FOLDER = Path(__file__).parents[2 if INSTALLED else 1]
"""The folder that has to be on a process's import path."""


def full_name(module: str) -> str:
    """ "recipes.flux" as it is imported here."""
    return _WITHIN + module


def version() -> str:
    """Of this project, such as "0.1.0"."""
    return str(importlib.import_module("reflectionflow").__version__)


def program(package: str) -> str:
    """What stands before a command of a package."""
    return "reflectionflow" if INSTALLED else f"python -m {package}"
