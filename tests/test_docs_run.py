"""What `docs/api.md` and the notebook say is executed as it stands there."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.micro_shards import write_micro_shards

DOCS = Path(__file__).parents[1] / "docs"
PARTS = dict(re.findall(r"^## (.+?)\n.*?```python\n(.*?)```", (DOCS / "api.md").read_text(), re.DOTALL | re.MULTILINE))
NOTEBOOK = json.loads((DOCS / "first_steps.ipynb").read_text())


def execute(parts: list[str]) -> dict[str, Any]:
    """One after the other, with the same names. `_` is the value of the last line that has one, as in a notebook."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for part in parts:
        tree = ast.parse(part)
        value = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "docs", "exec"), names)
        if isinstance(value, ast.Expr):
            names["_"] = eval(compile(ast.Expression(value.value), "docs", "eval"), names)
    return names


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_micro_shards(tmp_path / "runs" / "demo" / "shards", jpeg=True)
    return tmp_path


def test_the_page_has_an_example_of_each():
    assert list(PARTS) == ["Draw", "Check", "Search", "Correct", "Read a shard", "Train"]
    assert all(len(part.strip().splitlines()) <= 11 for part in PARTS.values())


def test_the_pages_examples_run(place, capsys):
    names = execute([PARTS[one] for one in PARTS if one != "Train"])
    assert names["image"].shape == names["best"].shape == names["corrected"].shape == (32, 32, 3)
    assert len(names["trace"].drafts) == 4
    assert names["good"].size == (32, 32)
    assert (place / "circles.png").stat().st_size > 0
    assert (names["corrected"] != names["image"]).any()
    assert "u000000-r000-p00" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_pages_training_runs(place):
    execute([PARTS["Draw"].partition("\n\nprompt")[0], "from dataclasses import replace", PARTS["Train"]])
    assert list((place / "runs" / "corrector" / "corrector").glob("*.safetensors"))


def test_the_notebook_runs(place):
    assert NOTEBOOK["nbformat"] == 4
    cells = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code")
    names = execute(cells)
    assert names["_"].size == (3 * 264, 256)
    assert len(names["corrected"]) == 2
