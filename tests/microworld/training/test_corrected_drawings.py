"""Drawings of the corrector as training images: of wrong drawings alone, reproducibly, and found again."""

from typing import Any, cast

import numpy as np

from microworld.scenes.captions import Clause, caption_from_clauses
from microworld.scenes.corrections import corrections
from microworld.scenes.instructions import instruction
from microworld.scenes.world import Background, Scene, SceneObject, render
from microworld.training import vlm_images
from microworld.training.training_loop import MicroTrainingConfig
from microworld.training.vlm_images import ImagePool, PooledImage, correct_drawings, open_corrected_pool, open_pools

RED_STAR = caption_from_clauses("colors", (Clause("star", 1, "red"),))


def star(color):
    scene = Scene(Background(), (SceneObject("star", color, 16.0, 16.0, 10.0),))
    return PooledImage(render([scene]).images[0], scene, RED_STAR)


DRAWINGS = [star(color) for color in ("red", "blue", "green", "yellow", "purple", "black")]


class CopyingCorrector:
    """Draws the flawed image again, and keeps what it was told."""

    def __init__(self):
        self.told = []

    def correct(self, images, prompts, reflections, seeds):
        self.told += zip(prompts, reflections, seeds, strict=True)
        return list(images)


def corrected(size, seed=0):
    corrector = CopyingCorrector()
    captions, images = correct_drawings(cast(Any, corrector), DRAWINGS, np.random.default_rng(seed), size)
    assert captions == [RED_STAR] * len(images)
    return corrector.told, images


def test_wrong_drawings_are_corrected_twice_each_by_a_reflection_on_one_of_them():
    told, images = corrected(size=100)
    assert len(images) == 2 * 5  # the red star is right
    assert {image.tobytes() for image in images} == {item.image.tobytes() for item in DRAWINGS[1:]}
    assert all((a == b).all() for a, b in zip(images[::2], images[1::2], strict=True))
    reflections = [reflection for _, reflection, _ in told]
    assert reflections[::2] == reflections[1::2]
    own = {item.image.tobytes(): instruction(corrections(RED_STAR, item.scene)[0]) for item in DRAWINGS[1:]}
    assert set(reflections) <= set(own.values())
    true = [own[image.tobytes()] == reflection for image, reflection in zip(images, reflections, strict=True)]
    assert 0 < sum(true) < len(true)
    assert len({seed for _, _, seed in told}) == 10


def test_the_same_numbers_give_the_same_drawings():
    assert corrected(size=100)[0] == corrected(size=100)[0]
    assert corrected(size=100)[0] != corrected(size=100, seed=1)[0]
    assert len(corrected(size=4)[1]) == 4


def test_they_stand_before_the_generators_own_among_the_training_images(tmp_path, monkeypatch):
    (tmp_path / "out" / "flux").mkdir(parents=True)
    (tmp_path / "out" / "flux" / "model_index.json").write_text("{}")
    for name in ("_open_generator", "_open_corrector"):
        monkeypatch.setattr(vlm_images, name, lambda flux, device, batch_size: None)
    red, blue = (([RED_STAR], [item.image]) for item in DRAWINGS[:2])
    monkeypatch.setattr(vlm_images, "draw_captions", lambda model, rng, size, **_: (red[0] * size, red[1] * size))
    monkeypatch.setattr(
        vlm_images, "correct_drawings", lambda model, drawings, rng, size: (blue[0] * size, blue[1] * size)
    )
    config = MicroTrainingConfig(1, tmp_path / "work", tmp_path / "out")
    assert open_corrected_pool(config, ImagePool(tmp_path / "none", lambda rng, size: [], 0), 4) is None  # no corrector
    (tmp_path / "out" / "corrector").mkdir()
    (tmp_path / "out" / "corrector" / "corrector.json").write_text("{}")
    _, pool = open_pools(config, 0, num_generated=6, num_corrected=4)
    assert pool is not None
    assert [item.scene.objects[0].color for item in pool.items] == ["blue"] * 4 + ["red"] * 6
