"""The verifier that checks requirements one by one, with the micro models: what it says of right and wrong scenes."""

from dataclasses import replace

import numpy as np
import pytest

from inference.interfaces import OneCallAnImage, ReadsRequirements, verify_records
from inference.prompt_grammar import parse_prompt
from inference.requirements.atom_verifier import AtomVerifierConfig
from inference.requirements.atoms import atoms_of, failing
from inference.verifier import MeanVerifier, VerifierConfig
from microworld.family import micro_dino, micro_grounded_sam, micro_sam, micro_vlm
from microworld.scenes.world import Background, Scene, SceneObject, render
from recipes import micro
from schemas.configuration import output_config
from schemas.errors import InputError
from schemas.records import ObjectClause, PromptRecord, Question


def scene(*objects):
    return Scene(Background(), tuple(SceneObject(shape, color, x, 16.0, 10.0) for shape, color, x in objects))


STAR_AND_RING = scene(("star", "red", 8.0), ("ring", "blue", 24.0))
SQUARE_AND_RING = scene(("square", "red", 8.0), ("ring", "blue", 24.0))
RED_STAR_LEFT = parse_prompt("a photo of a red star left of a ring")
ASKED = PromptRecord(
    "asked",
    "a red star and whatever",
    "rule",
    include=(ObjectClause("star", 1, "red"),),
    questions=(Question("Is there a blue ring?"), Question("How many stars are there?", "two")),
)


@pytest.fixture(scope="module")
def images():
    return list(render([STAR_AND_RING, SQUARE_AND_RING]).images)


@pytest.fixture(scope="module")
def verifier():
    return used(("atoms",)).open()


def used(kinds, **changes):
    config = replace(micro.verifier(), kinds=kinds)
    changes = {"grounding": micro_grounded_sam(micro_dino(batch_size=4), micro_sam(image_batch=4))} | changes
    assert config.atoms is not None
    return replace(config, atoms=replace(config.atoms, **changes)).only_what_is_used(micro_vlm())


def test_the_right_scene_is_above_and_what_is_missing_replaces_what_is_there(verifier, images):
    assert isinstance(verifier, ReadsRequirements)
    right, wrong = verify_records(verifier, images, [RED_STAR_LEFT] * 2)
    assert right.score > 2 > -2 > wrong.score
    assert [atom.text for atom in right.atoms] == [atom.text for atom in atoms_of(RED_STAR_LEFT)]
    assert not failing(right.atoms)
    assert right.explanation == ""
    assert [atom.mend for atom in failing(wrong.atoms) if atom.mend] == ["Replace the red square by a red star."]
    assert wrong.explanation.startswith("Not met: ")
    assert "a star" in wrong.explanation
    assert (right.cost.detector_calls, wrong.cost.detector_calls) == (1, 2)
    assert wrong.cost.vlm_calls == 0


def test_questions_are_put_to_the_vlm_beside_what_the_detector_checks(verifier, images):
    (opinion,) = verify_records(verifier, images[:1], [ASKED])
    assert [atom.kind for atom in opinion.atoms] == ["object", "color", "question", "question"]
    assert [atom.value > 0.5 for atom in opinion.atoms] == [True, True, True, False]
    assert opinion.cost.vlm_calls == 2
    assert opinion.explanation == "Not met: How many stars are there."


def test_without_a_detector_everything_is_a_question(images):
    config = used(("atoms",), grounding=None)
    right, wrong = verify_records(config.open(), images, [RED_STAR_LEFT] * 2)
    assert not failing(right.atoms)
    assert right.score > wrong.score
    assert "Add a red star." in [atom.mend for atom in failing(wrong.atoms)]
    assert (wrong.cost.detector_calls, wrong.cost.vlm_calls) == (0, 4)
    assert not config.is_client
    at_an_address = replace(
        micro_vlm(), kind="endpoint", model="", endpoint_model="m", base_url="http://127.0.0.1:9/v1"
    )
    elsewhere = VerifierConfig(("atoms",), atoms=AtomVerifierConfig(grounding=None)).only_what_is_used(at_an_address)
    assert elsewhere.is_client
    assert elsewhere.asked_vlm == at_an_address


def test_an_image_does_not_change_anothers_atoms(verifier, images):
    together = verify_records(verifier, [*images, images[0]], [RED_STAR_LEFT, RED_STAR_LEFT, ASKED])
    alone = [verify_records(verifier, [i], [r])[0] for i, r in ((images[0], RED_STAR_LEFT), (images[0], ASKED))]
    for one, other in ((together[0], alone[0]), (together[2], alone[1])):
        np.testing.assert_allclose([a.value for a in one.atoms], [a.value for a in other.atoms], atol=1e-3)
        assert [a.mend for a in one.atoms] == [a.mend for a in other.atoms]


def test_a_mean_keeps_the_atoms_and_bare_words_tell_what_they_do(verifier, images):
    class Bright(OneCallAnImage):
        def score(self, images, prompts):
            return np.ones(len(images), np.float32)

    (opinion,) = MeanVerifier([Bright(), verifier]).verify(images[:1], [RED_STAR_LEFT.text])
    assert [atom.text for atom in opinion.atoms] == [atom.text for atom in atoms_of(RED_STAR_LEFT)]


def test_a_free_prompt_is_refused_with_what_to_do(verifier, images):
    with pytest.raises(InputError, match=r"--requirements\.kind vlm"):
        verifier.score(images[:1], ["abstract joy in motion"])
    assert verifier.score([], []).shape == (0,)


def test_runs_of_before_keep_their_keys_and_what_is_not_used_is_dropped():
    without = VerifierConfig(("rules",), atoms=None)
    assert "atoms" not in output_config(without, {})
    assert used(("rules",)).atoms is None
    assert used(("atoms",)).rules is None
    with pytest.raises(InputError, match="'atoms' has no configuration"):
        VerifierConfig(("atoms",)).only_what_is_used(micro_vlm())
    with pytest.raises(InputError, match="rising"):
        used(("atoms",), unsure=(0.7, 0.3))
