import contextlib
import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.harvest_job import HarvestJobConfig
from recipes import catalogue
from schemas.checked_json import checked_record, decode_checked, encode_checked
from schemas.errors import CorruptDataError
from schemas.shards import ShardSidecar

VALUES = st.dictionaries(
    st.text(st.characters(codec="utf-8"), max_size=6).filter(lambda name: name != "sha256"),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
        max_leaves=6,
    ),
    max_size=4,
)


@given(VALUES)
def test_what_was_written_is_read_back(value):
    assert decode_checked(encode_checked(value), "x") == value


@given(VALUES, st.data())
def test_a_flipped_bit_is_noticed_or_changes_nothing(value, data):
    flipped = bytearray(encode_checked(value))
    flipped[data.draw(st.integers(0, len(flipped) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(CorruptDataError):
        assert decode_checked(bytes(flipped), "x") == value


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"null", b'{"a": 1}', b'{"a": 1, "sha256": 3}', b"[" * 50_000])
def test_what_carries_no_digest_is_refused(data):
    with pytest.raises(CorruptDataError, match=r"^x: "):
        decode_checked(data, "x")


CONFIGS = [
    *((preset, part) for part in ("dataset", "search") for preset in catalogue.names(part)),
]


@pytest.mark.parametrize(("preset", "part"), CONFIGS)
def test_every_presets_configuration_is_read_back_from_json(preset, part):
    config = catalogue.load(preset, part)
    assert checked_record(type(config), json.loads(json.dumps(asdict(config))), "x") == config


def test_a_harvests_configuration_is_read_back_from_json():
    config = HarvestJobConfig()
    assert checked_record(HarvestJobConfig, json.loads(json.dumps(asdict(config))), "x") == config


SIDECAR = asdict(ShardSidecar("a.tar", "0" * 16, 0, 4, 2, {"rule": 2}, 10, "0" * 64, {"a.txt": "1"}))


@pytest.mark.parametrize("name", SIDECAR)
@pytest.mark.parametrize("value", [None, [], 1.5, True, {"a": []}, "x", -1])
def test_a_field_of_another_type_is_named(name, value):
    if type(value) is type(SIDECAR[name]):
        return
    with pytest.raises(CorruptDataError, match=rf"x: {name}"):
        checked_record(ShardSidecar, SIDECAR | {name: value}, "x")


def test_a_field_that_is_missing_or_unknown_is_named():
    with pytest.raises(CorruptDataError, match=r"x: num_bytes: missing"):
        checked_record(ShardSidecar, {k: v for k, v in SIDECAR.items() if k != "num_bytes"}, "x")
    with pytest.raises(CorruptDataError, match=r"x: colour: this version knows no such field"):
        checked_record(ShardSidecar, SIDECAR | {"colour": 1}, "x")
