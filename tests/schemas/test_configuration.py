from dataclasses import dataclass, field, replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.configuration import (
    added_field,
    chosen_kind,
    content_key,
    execution_field,
    kinds_of,
    model_field,
    model_names,
    output_config,
    stable_seed,
    template_field,
    template_names,
    without_other_kinds,
)
from schemas.errors import InputError


@dataclass(frozen=True)
class Detector:
    model: str = model_field("zoo/detector")
    threshold: float = 0.3
    device: str = execution_field("cpu")


@dataclass(frozen=True)
class Config:
    size_px: int = 64
    batch_size: int = execution_field(8)
    generator: str = model_field("zoo/generator")
    detector: Detector = field(default_factory=Detector)
    names: tuple[str, ...] = ("a", "b")


DIGESTS = {"zoo/generator": "11", "zoo/detector": "22"}


def key(config: Config, digests: dict[str, str] = DIGESTS) -> str:
    return content_key(output_config(config, digests))


def test_execution_fields_do_not_change_the_key():
    assert key(Config(batch_size=1, detector=Detector(device="cuda"))) == key(Config())


def test_where_a_model_lies_does_not_change_the_key_and_its_digest_does():
    moved = Config(generator="/models/generator", detector=Detector(model="/models/detector"))
    digests = {"/models/generator": "11", "/models/detector": "22"}
    assert key(moved, digests) == key(Config())
    assert key(moved, digests | {"/models/detector": "33"}) != key(Config())
    assert key(Config(), DIGESTS | {"zoo/generator": "33"}) != key(Config())


def test_every_other_field_changes_the_key_nested_ones_too():
    changed = [Config(size_px=65), Config(detector=Detector(threshold=0.31)), Config(names=("b", "a"))]
    assert len({key(config) for config in [Config(), *changed]}) == 4


def test_model_names_are_found_in_nested_configurations_once_each():
    assert model_names(Config()) == ("zoo/generator", "zoo/detector")
    same = replace(Config(), generator="zoo/detector")
    assert model_names(same) == ("zoo/detector",)
    assert model_names(replace(same, detector=Detector(model=""))) == ("zoo/detector",)


def test_keys_and_seeds_are_the_same_in_every_process_and_version():
    assert content_key("stage", 1, {"b": 1.5, "a": None}, ("x",)) == "2f0ff7005df6fa35"
    assert stable_seed(0, "p0001", 3) == 4962261090996579717


@given(st.lists(st.integers() | st.text(max_size=5), max_size=4))
def test_seeds_lie_in_the_range_that_generators_take(parts):
    assert 0 <= stable_seed(*parts) < 2**63


def test_seeds_differ_between_parts_that_look_alike_when_joined():
    assert len({stable_seed("a", "bc"), stable_seed("ab", "c"), stable_seed("abc"), stable_seed("a", "b", "c")}) == 4


# Seams: a configuration with a kind


@dataclass(frozen=True)
class Asked:
    model: str = model_field("zoo/vlm")
    prompt: str = template_field("verify")


@dataclass(frozen=True)
class Seam:
    kind: Literal["dino", "in-words", "none-here"] = "dino"
    dino: Detector | None = field(default_factory=Detector)
    in_words: Asked | None = field(default_factory=Asked)
    none_here: Asked | None = None
    weight: float = 1.0


def test_the_kinds_of_a_seam_are_those_that_its_annotation_names():
    assert kinds_of(Seam) == ("dino", "in-words", "none-here")


def test_the_chosen_kind_is_the_nested_configuration_of_its_name():
    assert chosen_kind(Seam()) == Detector()
    assert chosen_kind(Seam("in-words")) == Asked()


def test_a_kind_without_a_configuration_is_refused_with_those_that_have_one():
    for refuses in (chosen_kind, without_other_kinds):
        with pytest.raises(InputError, match="'none-here' has no configuration here") as refused:
            refuses(Seam("none-here"))
        assert (refused.value.field, refused.value.expected) == ("kind", "dino or in-words")
    with pytest.raises(InputError) as refused:
        chosen_kind(Seam(dino=None, in_words=None))
    assert refused.value.expected == "a model"


def test_without_other_kinds_their_models_are_not_needed_nor_part_of_a_key():
    seam = Seam("in-words", weight=2.0)
    assert without_other_kinds(seam) == Seam("in-words", dino=None, weight=2.0)
    assert model_names(seam) == ("zoo/detector", "zoo/vlm")
    assert model_names(without_other_kinds(seam)) == ("zoo/vlm",)
    other = replace(seam, dino=Detector(threshold=0.9))
    assert output_config(without_other_kinds(other), {}) == output_config(without_other_kinds(seam), {})
    assert without_other_kinds(without_other_kinds(seam)) == without_other_kinds(seam)


@dataclass(frozen=True)
class Ensemble:
    """Several configurations in one field."""

    members: tuple[Seam, ...] = (Seam(), Seam("in-words", dino=None))
    palette: tuple[tuple[str, int], ...] = (("red", 1), ("blue", 2))


def test_models_and_templates_are_found_in_tuples_of_configurations_once_each():
    assert model_names(Ensemble()) == ("zoo/detector", "zoo/vlm")
    assert template_names(Ensemble()) == ("verify",)
    assert model_names(Ensemble(())) == ()


def test_tuples_of_configurations_count_as_their_members_do():
    digests = {"zoo/detector": "22", "zoo/vlm": "33", "verify": "44"}

    def key(ensemble: Ensemble) -> str:
        return content_key(output_config(ensemble, digests))

    first, second = Ensemble().members
    assert output_config(Ensemble((second,)), digests)["members"] == [
        {
            "kind": "in-words",
            "dino": None,
            "in_words": {"model": "33", "prompt": "44"},
            "none_here": None,
            "weight": 1.0,
        }
    ]
    on_gpu = replace(first, dino=Detector(device="cuda"))
    moved = replace(first, dino=Detector(model="/models/detector"))
    digests["/models/detector"] = "22"
    assert key(Ensemble((on_gpu, second))) == key(Ensemble((moved, second))) == key(Ensemble())
    changed = [(second, first), (first,), (replace(first, weight=0.5), second), ()]
    assert len({key(Ensemble(members)) for members in [*changed, Ensemble().members]}) == 5
    assert key(Ensemble(palette=(("blue", 2), ("red", 1)))) != key(Ensemble())


@dataclass(frozen=True)
class Grown:
    kind: Literal["dino", "in-words"] = "dino"
    dino: Detector | None = field(default_factory=Detector)
    in_words: Asked | None = added_field(None)


def test_a_kind_that_came_later_counts_where_it_is_chosen():
    assert output_config(Grown(in_words=Asked()), {}) == output_config(Grown(), {})
    chosen = output_config(Grown("in-words", in_words=Asked()), {})
    assert chosen["in_words"] == output_config(Asked(), {})
