"""The one door to rendered worlds: by the name of their vocabulary, and shut in words where one is not installed."""

import sys

import pytest

from microworld.prompt_source import MicroWorld
from microworld.scenes.edit_file import sample_edit_row
from microworld.scenes.evaluation_split import SPLITS, dev_prompts
from pipelines.prompts.worlds import benchmark_names, benchmark_prompts, edits_at, place_of_edits, world_of
from schemas.errors import InputError

MICRO = MicroWorld()


@pytest.fixture
def not_installed(monkeypatch):
    """The micro world as a package that is not there."""
    monkeypatch.setitem(sys.modules, "microworld.prompt_source", None)


@pytest.mark.parametrize("vocabulary", ["everyday", "words.json", "", "Micro", "micro-dev"])
def test_other_vocabularies_are_of_no_world(vocabulary):
    assert world_of(vocabulary) is None


def test_the_micro_world_has_its_vocabulary_s_name():
    world = world_of("micro")
    assert isinstance(world, MicroWorld)
    assert world.name == "micro"


def test_benchmarks_are_found_by_name():
    assert benchmark_names() == list(SPLITS)
    assert "micro-dev" in benchmark_names()
    assert benchmark_prompts("micro-dev") is dev_prompts
    for name in ("micro", "micro-", "micro-devil", "everyday-dev", "composed", "evaluation_metadata.jsonl"):
        assert benchmark_prompts(name) is None


def test_the_edits_of_a_place_are_those_of_its_seed():
    place = place_of_edits(MICRO, 3)
    assert place == "micro-world:3"
    here, elsewhere = edits_at(place), edits_at("micro-world:4")
    assert here is not None
    assert elsewhere is not None
    assert here(5) == MICRO.edit_row(3, 5) == sample_edit_row(3, 5)
    assert elsewhere(5) != here(5)


@pytest.mark.parametrize(
    "file", ["edits.parquet", "edits.tar", "micro-world:", "micro-world:3.tar", "/x/micro-world:3", "everyday-world:3"]
)
def test_files_are_no_places_of_edits(file):
    assert edits_at(file) is None


def test_what_is_kept_for_benchmarks_is_told_from_what_is_not():
    reserved = next(p for p in dev_prompts() if p.tag == "two_object")
    free = next(p for p in dev_prompts() if p.tag == "single_object")
    assert MICRO.is_reserved(reserved)
    assert not MICRO.is_reserved(free)


@pytest.mark.parametrize("ask", [lambda: world_of("micro"), lambda: benchmark_prompts("micro-dev")])
def test_a_world_that_is_not_installed_is_said_to_be(not_installed, ask):
    with pytest.raises(InputError, match=r"the world 'micro' is not installed \(microworld") as refused:
        ask()
    assert (refused.value.field, refused.value.expected) == ("vocabulary", "a full clone")


def test_edits_of_a_world_that_is_not_installed_are_refused_too(not_installed):
    with pytest.raises(InputError, match="is not installed"):
        edits_at("micro-world:3")


def test_without_a_world_everything_else_goes_on(not_installed):
    assert benchmark_names() == []
    assert world_of("everyday") is None
    assert benchmark_prompts("evaluation_metadata.jsonl") is None
    assert edits_at("edits.parquet") is None
