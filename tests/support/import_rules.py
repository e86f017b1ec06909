"""Who may import whom, as functions of the sources: path in the repository -> text. Each gives what breaks it."""

import ast
import functools
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

PRODUCTION = ("schemas", "inference", "trainers", "pipelines")
MAY_IMPORT = {
    "schemas": {"schemas"},
    "inference": {"schemas", "inference"},
    "trainers": {"schemas", "inference", "trainers"},
    "pipelines": {"schemas", "inference", "trainers", "pipelines"},
    "microworld": {"schemas", "inference", "trainers", "microworld"},
    "recipes": {"schemas", "inference", "trainers", "pipelines", "microworld", "recipes"},
    "commands": {"schemas", "inference", "trainers", "pipelines", "recipes", "commands"},
}
"""Of our own packages. Nobody imports tests or benchmarks."""
DOORS = {
    "pipelines/prompts/worlds.py": "microworld.prompt_source",
    "pipelines/__main__.py": "commands.main",
    "trainers/__main__.py": "commands.main",
    "inference/__main__.py": "commands.main",
    "commands/train_micro.py": "microworld.training.training_loop",
}
"""The only files that reach further than their package may, and what for: a world's prompts to the intake, and the
modules that `python -m` starts."""
OF_MICRO = ("recipes/micro.py", "recipes/micro_gpu.py", "recipes/micro_paper.py")
HEAVY = {
    "datasets",
    "diffusers",
    "matplotlib",
    "openai",
    "ray",
    "segment_anything",
    "torch",
    "torchvision",
    "transformers",
    "vllm",
}


def read_sources(root: Path) -> dict[str, str]:
    """Every Python file of our packages."""
    paths = (path for package in MAY_IMPORT for path in sorted((root / package).rglob("*.py")))
    return {path.relative_to(root).as_posix(): path.read_text() for path in paths}


def module_of(path: str) -> str:
    """pipelines/stage.py -> pipelines.stage"""
    parts = path.removesuffix(".py").split("/")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def imported(source: str, *, at_module_level: bool = False) -> frozenset[str]:
    """Full names that a file imports: `a.b` for `import a.b`, `a.b` and `a.b.c` for `from a.b import c`. What is
    imported for types alone does not count."""

    def walk(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            inner = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            if (at_module_level and inner) or _only_for_types(child):
                continue
            yield child
            yield from walk(child)

    names: set[str] = set()
    for node in walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return frozenset(names)


@functools.cache
def constants(source: str) -> frozenset[str]:
    """Every text that stands in a file."""
    found = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return frozenset(value for value in found if isinstance(value, str))


def _only_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def tops(names: Iterable[str]) -> set[str]:
    """First parts of names."""
    return {name.partition(".")[0] for name in names}


def out_of_floor(sources: Mapping[str, str]) -> dict[str, list[str]]:
    """Files that import a package of ours that theirs may not, and what; those behind a door excepted."""
    ours, wrong = {*MAY_IMPORT, "tests", "benchmarks"}, {}
    for path, source in sources.items():
        names = imported(source)
        door = DOORS.get(path, "no door")
        names = {name for name in names if not f"{name}.".startswith(f"{door}.") and name != door.partition(".")[0]}
        bad = (tops(names) & ours) - MAY_IMPORT[path.partition("/")[0]]
        if bad or any(name.startswith(".") for name in names):
            wrong[path] = sorted(bad or {"a relative import"})
    return wrong


def knows_micro(sources: Mapping[str, str]) -> dict[str, list[str]]:
    """Files outside the micro world that import it, or name one of its models or templates: they would not stand
    without it. Its own recipes and the doors excepted."""
    wrong = {}
    for path, source in sources.items():
        if path in OF_MICRO or path in DOORS or path.startswith("microworld/"):
            continue
        found = {name for name in imported(source) if name.partition(".")[0] == "microworld"}
        found |= {text for text in constants(source) if text.startswith("micro/")}
        if found:
            wrong[path] = sorted(found)
    return wrong


def in_circles(sources: Mapping[str, str]) -> set[str]:
    """Modules that import each other in a circle, those between circles included. Imports inside functions count: one
    that waits until it is called hides a circle, and does not cut it."""
    modules = {module_of(path): source for path, source in sources.items()}
    uses = {
        module: {name for name in imported(source) if name in modules and name != module}
        for module, source in modules.items()
    }
    while True:
        # What uses nothing that is left, or is used by nothing that is left, is in no circle.
        used = set().union(*uses.values()) if uses else set()
        left = {m: names & uses.keys() for m, names in uses.items() if names & uses.keys() and m in used}
        if left == uses:
            return set(left)
        uses = left


def knows_ray(sources: Mapping[str, str]) -> list[str]:
    """Files that import Ray beside `pipelines/runtime/`; two modules of the trainers may."""
    users = [path for path, source in sources.items() if "ray" in tops(imported(source))]
    may = ("trainers/launch.py", "trainers/ray_cluster.py")
    return [path for path in users if not path.startswith("pipelines/runtime/") and path not in may]


def heavy_schemas(sources: Mapping[str, str]) -> dict[str, list[str]]:
    """Files of schemas that import more than numpy, pyarrow, pillow and obstore; and, once they are asked for, the
    clients of the hub and of AWS profiles."""
    allowed = {"schemas", "numpy", "pyarrow", "PIL", "obstore", *sys.stdlib_module_names}
    when_asked = {"huggingface_hub", "boto3"}
    mine = {path: s for path, s in sources.items() if path.startswith("schemas/")}
    found = {path: tops(imported(s)) - allowed - when_asked for path, s in mine.items()}
    for path, s in mine.items():
        found[path] |= tops(imported(s, at_module_level=True)) & when_asked
    return {path: sorted(names) for path, names in found.items() if names}


def heavy_at_start(sources: Mapping[str, str], entry: str) -> dict[str, str]:
    """Modules that importing `entry` imports and that import a heavy library, with who imported them first."""
    files = {module_of(path): source for path, source in sources.items()}
    found, waiting = {entry: ""}, [entry]
    while waiting:
        module = waiting.pop()
        for name in imported(files[module], at_module_level=True):
            parts = name.split(".")
            for end in range(1, len(parts) + 1):
                prefix = ".".join(parts[:end])
                if prefix in files and prefix not in found:
                    found[prefix] = module
                    waiting.append(prefix)
    return {
        module: f"{sorted(names)}, imported by {by}"
        for module, by in found.items()
        if (names := tops(imported(files[module], at_module_level=True)) & HEAVY)
    }
