"""Who imports whom, read from the source of every file, and what a command may cost before it works."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from commands.main import GROUPS

ROOT = Path(__file__).parents[1]
PACKAGES = ("schemas", "inference", "trainers", "pipelines", "microworld", "recipes", "commands")
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
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, *, at_module_level: bool) -> set[str]:
    """Full names that a file imports: `a.b` for `import a.b`, `a.b` and `a.b.c` for `from a.b import c`."""

    def walk(node: ast.AST):
        for child in ast.iter_child_nodes(node):
            inner = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            if at_module_level and (inner or _only_for_types(child)):
                continue
            yield child
            yield from walk(child)

    names: set[str] = set()
    for node in walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def _only_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def top(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def reachable(entry: str) -> dict[str, str]:
    """Modules of ours that importing `entry` imports, each with the module that it was first imported by."""
    files = {module_name(path): path for path in FILES}
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
    return found


def test_there_is_something_to_look_at():
    assert len(FILES) > 40
    assert top(imported(ROOT / "pipelines" / "driver.py", at_module_level=True)) >= {"pipelines", "schemas", "logging"}


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_one_way(package):
    later = set(PACKAGES[PACKAGES.index(package) + 1 :])
    wrong = {
        str(path.relative_to(ROOT)): sorted(names)
        for path in FILES
        if path.relative_to(ROOT).parts[0] == package
        if (names := top(imported(path, at_module_level=False)) & (later | {"tests", "benchmarks"}))
    }
    assert wrong == {}


@pytest.mark.parametrize("package", [name for name in PACKAGES if name != "trainers"])
def test_no_file_imports_itself_in_a_circle(package):
    """Imports inside functions count: one that waits until it is called hides a circle, and does not cut it."""
    files = {module_name(path): path for path in FILES if path.relative_to(ROOT).parts[0] == package}
    uses = {
        module: {name for name in imported(path, at_module_level=False) if name in files and name != module}
        for module, path in files.items()
    }
    for _ in uses:  # what uses nothing that is left is in no circle
        uses = {module: left for module, names in uses.items() if (left := names & uses.keys())}
    assert uses == {}


def test_ray_is_known_to_its_runtime_and_one_trainer_module_alone():
    users = [path.relative_to(ROOT) for path in FILES if "ray" in top(imported(path, at_module_level=False))]
    assert [str(path) for path in users if path.parts[0] == "inference" or path.parts[0] == "schemas"] == []
    assert [str(path) for path in users if path.parts[0] == "pipelines" and path.parts[1] != "runtime"] == []
    assert len([path for path in users if path.parts[0] == "trainers"]) <= 1


def test_schemas_are_light():
    allowed = {"schemas", "numpy", "pyarrow", "PIL", *sys.stdlib_module_names}
    wrong = {
        path.name: sorted(top(imported(path, at_module_level=False)) - allowed)
        for path in FILES
        if path.relative_to(ROOT).parts[0] == "schemas"
    }
    assert {name: names for name, names in wrong.items() if names} == {}


ENTRIES = sorted(
    module_name(path)
    for path in FILES
    if path.name == "__main__.py" or (path.parts[-2] == "commands" and path.name != "__init__.py")
)


@pytest.mark.parametrize("entry", ENTRIES)
def test_no_command_imports_a_heavy_library_before_it_works(entry):
    files = {module_name(path): path for path in FILES}
    modules = reachable(entry)
    wrong = {
        module: f"{sorted(names)}, imported by {modules[module]}"
        for module in modules
        if (names := top(imported(files[module], at_module_level=True)) & HEAVY)
    }
    assert wrong == {}


HELPS = [
    *([package] for package in GROUPS),
    *(["pipelines", command] for command in GROUPS["pipelines"].commands),
]


COUNT = """
import cProfile, pstats, runpy, sys
package, *sys.argv[1:] = sys.argv[1:]
profile = cProfile.Profile()
try:
    profile.runcall(runpy.run_module, package, run_name="__main__", alter_sys=True)
except SystemExit as end:
    if end.code:
        raise
print(pstats.Stats(profile).total_calls, *sys.modules)
"""


@pytest.mark.parametrize("command", HELPS, ids=" ".join)
def test_help_answers_within_a_second(command):
    """Counted, not timed: a machine's slow phases double any time. 0.82 million calls took 0.76 s on a quiet core."""
    done = subprocess.run(
        [sys.executable, "-c", COUNT, *command, "--help"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": "120"},
    )
    *printed, counted = done.stdout.splitlines()
    calls, *modules = counted.split()
    assert "usage" in " ".join(printed).lower()
    assert int(calls) < 1_050_000
    assert not {name.partition(".")[0] for name in modules} & HEAVY


SHARED_BY_TESTS = ("support", "soak")


def test_what_tests_share_lies_in_support_and_no_test_imports_from_another():
    """tests/soak keeps files of its own: they run apart, too."""
    files = {path: path.relative_to(ROOT / "tests").parts for path in sorted((ROOT / "tests").rglob("*.py"))}
    wrong = {
        str(path.relative_to(ROOT)): sorted(names)
        for path in files
        if (names := {n for n in imported(path, at_module_level=False) if n.startswith("tests.") and not shared(n)})
    }
    assert wrong == {}
    helpers = [parts for parts in files.values() if not parts[-1].startswith(("test_", "__init__", "conftest"))]
    assert [parts for parts in helpers if parts[0] not in SHARED_BY_TESTS] == []
    assert [parts for parts in files.values() if parts[0] in SHARED_BY_TESTS and parts[-1].startswith("test_")] == []


def shared(name: str) -> bool:
    return name.split(".")[1] in SHARED_BY_TESTS
