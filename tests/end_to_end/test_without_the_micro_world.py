"""Production stands without the laboratory: delete the micro world and its recipes, and all else still works."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.import_rules import module_of

ROOT = Path(__file__).parents[2]
KEPT = ("schemas", "inference", "trainers", "pipelines", "recipes", "commands")
GONE = ("recipes/micro.py", "recipes/micro_gpu.py", "recipes/micro_paper.py")


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copy")
    for package in KEPT:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for path in GONE:
        (folder / path).unlink()
    return folder


def python(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(folder), "COLUMNS": "140", "HF_HOME": str(folder / "no_models")}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=280
    )


def test_every_module_imports(copy):
    paths = [path.relative_to(copy).as_posix() for package in KEPT for path in sorted((copy / package).rglob("*.py"))]
    modules = [module_of(path) for path in paths if not path.endswith("__main__.py")]
    code = f"import importlib\nfor name in {modules!r}: importlib.import_module(name)\nimport sys\n"
    done = python(copy, "-c", code + "assert not [m for m in sys.modules if m.startswith('microworld')]")
    assert done.returncode == 0, done.stderr


def test_a_plan_of_production_is_made(copy):
    done = python(copy, "-m", "pipelines", "plan", "--preset", "flux", "--num-prompts", "1000")
    assert "generate_candidates" in done.stdout
    assert "8 x h100" in done.stdout
    assert "before it can start" in done.stdout  # no weights are here
    assert done.returncode == 2


def test_a_shipped_name_says_whose_it_was(copy):
    done = python(copy, "-m", "pipelines", "plan", "--preset", "flux", "--generate.generator.flux.model", "micro/flux")
    assert "'micro' is the package 'microworld''s" in done.stdout + done.stderr
    done = python(copy, "-m", "pipelines", "run", "--run", "x", "--preset", "micro")
    assert done.returncode == 2
    assert "unknown preset 'micro'" in done.stderr
