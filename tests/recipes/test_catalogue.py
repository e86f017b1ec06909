"""Presets name what they say, survive run.json, and say nothing of the micro family unless they are its own."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, get_args

import pytest

from pipelines.jobs import DatasetConfig
from pipelines.search_job import SearchJobConfig
from recipes import catalogue
from schemas.arrow import record_from_dict
from schemas.errors import InputError

PARTS = get_args(catalogue.Part)
SAID = [(name, part) for name in catalogue.names() for part in PARTS if name in catalogue.names(part)]


@pytest.mark.parametrize("name", catalogue.names("dataset"))
def test_a_preset_survives_run_json(name):
    dataset = catalogue.load(name, "dataset")
    text = json.dumps(asdict(dataset))
    again = record_from_dict(DatasetConfig, json.loads(text))
    assert json.dumps(asdict(again)) == text
    assert again.ground.workers == dataset.ground.workers
    assert again.generate == dataset.generate


@pytest.mark.parametrize("name", catalogue.names("search"))
def test_a_preset_s_search_survives_run_json(name):
    search = catalogue.load(name, "search")
    again = record_from_dict(SearchJobConfig, json.loads(json.dumps(asdict(search))))
    assert again == search


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="unknown preset 'fluxx'") as refused:
        catalogue.load("fluxx", "dataset")
    assert refused.value.expected == " or ".join(catalogue.names("dataset"))
    assert {"micro", "flux", "flux-24gb"} <= set(catalogue.names("dataset"))


def test_a_preset_that_says_nothing_for_a_part_is_refused_with_those_that_do():
    with pytest.raises(InputError, match="'schnell' says nothing for drift clip") as refused:
        catalogue.load("schnell", "drift_clip")
    assert refused.value.field == "--preset"
    assert refused.value.expected == "flux or micro"


def test_what_is_not_said_may_have_another_value():
    nothing = object()
    assert catalogue.load_or("schnell", "dataset", nothing) is nothing
    assert catalogue.load_or("gone", "dataset", nothing) is nothing
    assert catalogue.load_or("micro", "dataset", nothing) == catalogue.load("micro", "dataset")


def test_the_catalogue_names_its_files_and_the_first_one_is_micro():
    assert {"flux", "flux-24gb", "micro", "schnell"} <= set(catalogue.names())
    assert "catalogue" not in catalogue.names()
    assert catalogue.default() == "micro"


def test_every_function_of_a_recipe_that_a_command_may_ask_for_is_known():
    """A part that is misspelt would say nothing to anyone."""
    own = {"verifier", "teacher"}  # what a recipe's parts share
    for name in catalogue.names():
        module = catalogue._module(name)
        said = {n for n, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
        functions = {n for n in said if callable(getattr(module, n)) and not n.startswith("_")}
        assert functions - own <= set(PARTS), name


@pytest.mark.parametrize(("name", "part"), SAID, ids=" ".join)
def test_every_part_of_every_preset_loads(name, part):
    assert catalogue.load(name, part) is not None
    assert catalogue.load(name, part) == catalogue.load(name, part)


def texts(value: Any) -> Iterator[str]:
    """Every text in a configuration, whatever it is nested in."""
    if isinstance(value, str):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from texts(getattr(value, field.name))
    elif isinstance(value, dict):
        yield from texts([*value.keys(), *value.values()])
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from texts(one)


MICRO_ALONE = ("micro", "micro-gpu")
ELSEWHERE = [(name, part) for name, part in SAID if name not in MICRO_ALONE]


@pytest.mark.parametrize(("name", "part"), ELSEWHERE, ids=" ".join)
def test_no_other_preset_names_a_model_a_template_or_a_world_of_the_micro_family(name, part):
    said = list(texts(catalogue.load(name, part)))
    assert [text for text in said if text == "micro" or text.startswith("micro/")] == []


def test_the_walk_finds_what_it_looks_for():
    found = set(texts(catalogue.load("micro", "search")))
    assert {"micro", "micro/flux", "micro/verify", "micro/rewards/hps", "micro/verifier", "micro/judge"} <= found


def test_looking_at_a_preset_imports_no_torch():
    code = "import sys, commands.plan, recipes.catalogue as c; c.load('flux', 'dataset')"
    assert subprocess.run([sys.executable, "-c", f"{code}; sys.exit('torch' in sys.modules)"]).returncode == 0
