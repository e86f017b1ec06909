"""What a concept's LoRA changed is drawn once and read from then on."""

import numpy as np

from benchmarks.dual_process.taught_images import taught_images
from inference.dual.concept import concept_of
from tests.support.tiny_teachers import QUESTION, tiny_concept, tiny_dual_process


def test_images_of_all_prompts_are_made_once_and_kept(tmp_path):
    models = tiny_dual_process(tmp_path / "flux", steps=1)
    other = concept_of("other", "a photo of a blue ring", [QUESTION])
    made = taught_images(models, tiny_concept(), tmp_path / "out", [other])
    assert [one.prompt for one in made.drawn] == ["a photo of a red star", "a photo of a blue ring"]
    assert all(one.before.shape == one.after.shape == (2, 16, 16, 3) for one in made.drawn)
    assert not np.array_equal(made.drawn[0].before, made.drawn[1].before)
    (lora,) = (tmp_path / "out").glob("star-*/pytorch_lora_weights.safetensors")
    written = lora.stat().st_mtime_ns
    again = taught_images(models, tiny_concept(), tmp_path / "out", [other])
    assert lora.stat().st_mtime_ns == written
    for first, second in zip(made.drawn, again.drawn, strict=True):
        assert np.array_equal(first.after, second.after)
        assert np.array_equal(first.vlm_after, second.vlm_after)
    alone = taught_images(models, tiny_concept(), tmp_path / "out")  # of other prompts: another result
    assert len(alone.drawn) == 1
    assert len(list((tmp_path / "out").glob("star-*"))) == 2


def test_a_concept_that_is_not_learnt_is_a_result_too(tmp_path):
    models = tiny_dual_process(tmp_path / "flux", steps=1, min_probability=1.0)
    made = taught_images(models, tiny_concept(), tmp_path / "out")
    assert (len(made.drawn), made.steps, made.fooled) == (1, 1, "")
