"""Prompts that ask for much: records say what the words say, and no benchmark's objects are trained on."""

import json

import numpy as np
import pytest

from inference.grounding.check import check_objects
from inference.judges.known_words import KnownWords
from inference.requirements.atoms import atoms_of
from microworld.prompt_source import MicroWorld
from microworld.scenes import compositions
from microworld.scenes.captions import PLACES
from microworld.scenes.compositions import KINDS, is_reserved_composition, objects_of, sample_composition
from microworld.scenes.evaluation_split import (
    compositional_dev_prompts,
    compositional_test_prompts,
    hard_test_prompts,
    second_hard_test_prompts,
)
from microworld.scenes.long_captions import mentions
from microworld.scenes.world import COLORS, SHAPES
from pipelines.prompts.read_prompts import Known, numbered_prompts
from schemas.records import DetectedObject

_CENTRES = {"upper left": (8, 8), "upper right": (24, 8), "lower left": (8, 24), "lower right": (24, 24)}


def as_told(text):
    """Objects as the words place them."""
    found = []
    for one in mentions(text):
        (place,) = one.attributes & set(PLACES)
        x, y = _CENTRES[place]
        color = next((a for a in one.attributes if a in COLORS), "grey")
        found.append(DetectedObject(one.shape, 0.9, (x - 4, y - 4, x + 4, y + 4), color))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_prompt_requires_is_what_its_words_say(kind):
    rng = np.random.default_rng(3)
    for _ in range(40):
        record = sample_composition(rng, kind)
        told = as_told(record.text)
        assert check_objects(record, told).correct, record.text
        assert len(told) == sum(clause.count for clause in record.include)
        assert not check_objects(record, told[1:]).correct, "an object fewer would not be noticed"
        assert 4 <= len(atoms_of(record)) <= 10


def test_dev_and_test_share_no_set_of_objects_and_no_sealed_relation():
    dev, test = compositional_dev_prompts(), compositional_test_prompts()
    assert (len(dev), len(test)) == (90, 240)
    assert len({record.text for record in (*dev, *test)}) == 330
    assert not {objects_of(record) for record in dev} & {objects_of(record) for record in test}
    sealed = {objects_of(record) for record in (*hard_test_prompts(), *second_hard_test_prompts())}
    assert not {objects_of(record) for record in dev} & sealed
    assert all(is_reserved_composition(record) and MicroWorld().is_reserved(record) for record in (*dev, *test))


def test_free_prompts_are_a_prompt_file_that_has_no_reserved_one(tmp_path, monkeypatch):
    path = tmp_path / "free.jsonl"
    monkeypatch.setattr("sys.argv", ["compositions", "--num-prompts", "24", "--out", str(path)])
    compositions.main()
    known = Known(KnownWords(frozenset(SHAPES), frozenset(COLORS)))
    read = [record for _, record in numbered_prompts(str(path), known)]
    assert len(read) == len({json.loads(line)["prompt"] for line in path.read_text().splitlines()}) == 24
    assert not any(MicroWorld().is_reserved(record) for record in read)
    assert all(atoms_of(record) for record in read)
