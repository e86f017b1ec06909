from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as st

from schemas.configuration import content_key, execution_field, model_field, model_names, output_config, stable_seed


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
