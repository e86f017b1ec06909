"""How the wheel is made; everything else about it is in pyproject.toml.

The packages lie at the repository's top, where `python -m pipelines` finds them. Names like `schemas` and `commands`
are other people's, too, so in the wheel all of them are inside `reflectionflow`. For that their imports of each other,
and the commands that they tell people to type, are written anew while the wheel is built."""

import ast
import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
NAME = "reflectionflow"
PACKAGES = ("schemas", "inference", "trainers", "pipelines", "microworld", "recipes", "commands")
COMMAND = re.compile(r"python -m (?:inference|trainers|pipelines|commands)(?= )")
MODULE = re.compile(rf"python -m (?=(?:{'|'.join(PACKAGES)})\.)")


def moved(source: str) -> str:
    """A file's text as it is inside `reflectionflow`."""
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
        names = [one.name for one in node.names] if isinstance(node, ast.Import) else names
        if not any(name.partition(".")[0] in PACKAGES for name in names):
            continue
        line = lines[node.lineno - 1]
        if isinstance(node, ast.ImportFrom):
            new = line.replace(f"from {names[0]}", f"from {NAME}.{names[0]}", 1)
        elif len(names) == 1 and "." not in names[0]:
            new = line.replace(f"import {names[0]}", f"from {NAME} import {names[0]}", 1)
        else:
            raise ValueError(f"{line.strip()!r} binds a package's own name; write `from {names[0]} import ...`")
        lines[node.lineno - 1] = new
    return MODULE.sub(f"python -m {NAME}.", COMMAND.sub(NAME, "".join(lines)))


class BuildPy(build_py):
    """Copies the packages, and moves what was copied."""

    def build_module(self, module, module_file, package):
        written, copied = super().build_module(module, module_file, package)
        inner = package if isinstance(package, str) else ".".join(package)
        if copied and inner != NAME:
            path = Path(written)
            path.write_text(moved(path.read_text(encoding="utf-8")), encoding="utf-8")
        return written, copied


if __name__ == "__main__":
    found = find_packages(str(ROOT), include=[pattern for name in PACKAGES for pattern in (name, f"{name}.*")])
    setup(
        packages=[NAME, *(f"{NAME}.{package}" for package in found)],
        package_dir={NAME: NAME, **{f"{NAME}.{package}": package.replace(".", "/") for package in found}},
        cmdclass={"build_py": BuildPy},
    )
