"""Who imports whom, read from the source of every file, and what a command may cost before it works."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from commands.main import GROUPS
from tests.support.import_rules import (
    DOORS,
    HEAVY,
    OF_MICRO,
    heavy_at_start,
    heavy_schemas,
    imported,
    in_circles,
    knows_micro,
    knows_ray,
    module_of,
    out_of_floor,
    read_sources,
    tops,
)

ROOT = Path(__file__).parents[1]
SOURCES = read_sources(ROOT)
# pipelines.__main__ ... and commands.*: what a command line starts.
ENTRIES = sorted(
    module_of(path)
    for path in SOURCES
    if path.endswith("/__main__.py") or (path.startswith("commands/") and not path.endswith("/__init__.py"))
)


def test_there_is_something_to_look_at():
    assert len(SOURCES) > 200
    assert tops(imported(SOURCES["pipelines/driver.py"])) >= {"pipelines", "schemas", "logging"}
    assert {*DOORS, *OF_MICRO} <= SOURCES.keys()


def test_every_package_imports_what_its_floor_may():
    assert out_of_floor(SOURCES) == {}


def test_nothing_but_its_own_recipe_knows_the_micro_world():
    assert knows_micro(SOURCES) == {}


def test_no_module_imports_itself_in_a_circle():
    assert in_circles(SOURCES) == set()


def test_ray_is_known_to_its_runtime_and_two_trainer_modules_alone():
    assert knows_ray(SOURCES) == []


def test_schemas_are_light():
    assert heavy_schemas(SOURCES) == {}


@pytest.mark.parametrize("entry", ENTRIES)
def test_no_command_imports_a_heavy_library_before_it_works(entry):
    assert heavy_at_start(SOURCES, entry) == {}


BROKEN = {
    "a stage knows a recipe": ("pipelines/stages/select_pairs.py", "from recipes import flux", out_of_floor),
    "a schema knows a model": ("schemas/records.py", "from inference import search", out_of_floor),
    "inference trains": ("inference/search.py", "from trainers.loop import TrainingLoop", out_of_floor),
    "a trainer runs a pipeline": ("trainers/loop.py", "import pipelines.driver", out_of_floor),
    "the driver knows a command": ("pipelines/driver.py", "from commands import run", out_of_floor),
    "the micro world knows a pipeline": ("microworld/oracles.py", "from pipelines import stage", out_of_floor),
    "a recipe knows a command": ("recipes/flux.py", "import commands.run", out_of_floor),
    "production knows a benchmark": ("pipelines/driver.py", "from benchmarks import gpu", out_of_floor),
    "a door leads elsewhere": ("pipelines/__main__.py", "from commands.run import main as run", out_of_floor),
    "a relative import": ("pipelines/driver.py", "from . import stage", out_of_floor),
    "production draws triangles": ("inference/search.py", "from microworld.scenes import world", knows_micro),
    "a recipe borrows from micro": ("recipes/flux.py", "from microworld import family", knows_micro),
    "a default is a micro model": ("inference/flux/generator.py", 'MODEL = "micro/flux"', knows_micro),
    "a circle": ("inference/search.py", "from inference import search_tools", in_circles),
    "a circle that waits": ("schemas/errors.py", "def f():\n    from schemas import configuration", in_circles),
    "ray in a stage": ("pipelines/stages/select_pairs.py", "import ray", knows_ray),
    "ray in a third trainer module": ("trainers/verifier.py", "import ray", knows_ray),
    "torch in a schema": ("schemas/images.py", "def f():\n    import torch", heavy_schemas),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_rule_notices_when_it_is_broken(name):
    path, line, rule = BROKEN[name]
    assert not rule(SOURCES)
    assert rule(SOURCES | {path: f"{SOURCES[path]}\n{line}\n"})


def test_a_heavy_library_at_the_top_of_a_module_is_noticed():
    broken = SOURCES | {"schemas/errors.py": SOURCES["schemas/errors.py"] + "\nimport torch\n"}
    assert heavy_at_start(broken, "commands.status")


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
    """Counted, not timed: a machine's slow phases double any time. 0.82 million calls took 0.76 s on a quiet core, so
    a second is 1.08."""
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
        if (names := {n for n in imported(path.read_text()) if n.startswith("tests.") and not shared(n)})
    }
    assert wrong == {}
    helpers = [parts for parts in files.values() if not parts[-1].startswith(("test_", "__init__", "conftest"))]
    assert [parts for parts in helpers if parts[0] not in SHARED_BY_TESTS] == []
    assert [parts for parts in files.values() if parts[0] in SHARED_BY_TESTS and parts[-1].startswith("test_")] == []


def shared(name: str) -> bool:
    return name.split(".")[1] in SHARED_BY_TESTS
