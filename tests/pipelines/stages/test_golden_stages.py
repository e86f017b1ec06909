"""Whoever changes what a stage makes bumps its version: blocks of the old kind are then made again."""

import json
from dataclasses import replace

import pytest

from pipelines.stage import Stage
from schemas.records import PromptRecord, PromptRow
from tests.support import golden_stages
from tests.support.golden_stages import GOLDEN, SCENARIOS, output_of, stage_classes

ON_ITS_OWN = {"select_pairs"}  # tests/pipelines/stages/test_select_pairs.py


@pytest.mark.parametrize("name", SCENARIOS)
def test_output_for_fixed_input_changes_with_the_version_alone(name):
    stage, golden = stage_classes()[name], json.loads((GOLDEN / f"{name}.json").read_text())
    then = f"then regenerate by `python -m tests.support.golden_stages {name}`"
    assert golden["version"] == stage.version, f"another version of {stage.__name__}: {then}"
    assert output_of(name) == golden["rows"], f"output changed: bump `version` of {stage.__name__}, {then}"


def test_every_stage_has_a_golden_file():
    assert set(stage_classes()) == set(SCENARIOS) | ON_ITS_OWN, "give the new stage a scenario in golden_stages.py"
    assert len(stage_classes()) >= 16


def test_every_scenario_asks_its_own_stage_and_something_comes_of_it():
    for name, scenario in SCENARIOS.items():
        asked = []
        with pytest.MonkeyPatch.context() as patch:
            of_stage = stage_classes()[name]
            patch.setattr(
                of_stage,
                "__call__",
                lambda self, rows, asked=asked, was=of_stage.__call__: asked.append(type(self).name) or was(self, rows),
            )
            rows = scenario()
        assert set(asked) == {name}
        assert len(rows) >= 2


class Loud(Stage):
    """Changes what it makes."""

    name = "loud"
    version = 1
    said = "a"

    def __call__(self, rows):
        return [replace(row, condensed=self.said) for row in rows]


@pytest.fixture
def loud(tmp_path, monkeypatch):
    monkeypatch.setattr(golden_stages, "GOLDEN", tmp_path)
    monkeypatch.setattr(golden_stages, "stage_classes", lambda: {"loud": Loud})
    monkeypatch.setitem(SCENARIOS, "loud", lambda: Loud(None, 0)([PromptRow(PromptRecord("p", "p", "length"))]))
    return tmp_path / "loud.json"


def test_a_golden_file_is_written_over_after_a_bump_alone(loud, monkeypatch):
    assert golden_stages.write("loud") == "loud: written, version 1"
    assert golden_stages.write("loud") == "loud: as it was"
    before = loud.read_text()
    monkeypatch.setattr(Loud, "said", "b")
    assert "bump `version` first" in golden_stages.write("loud")
    assert loud.read_text() == before
    monkeypatch.setattr(Loud, "version", 2)
    assert golden_stages.write("loud") == "loud: written, version 2"
    assert json.loads(loud.read_text())["version"] == 2
    assert json.loads(loud.read_text())["rows"][0]["condensed"] == "b"
