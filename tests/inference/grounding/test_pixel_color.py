"""Colours by pixels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.grounding.pixel_color import GENEVAL_COLORS, PixelColorConfig, PixelColorNamer, erode, srgb_to_lab
from microworld.family import micro_grounded_sam
from microworld.scenes.world import COLORS, SHAPES, Background, Scene, SceneObject, render


def test_known_values_of_cielab():
    lab = srgb_to_lab(np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 0, 255]], float))
    expected = [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20], [32.30, 79.19, -107.86]]
    assert np.allclose(lab, expected, atol=0.05)


def test_erosion_takes_the_rim():
    mask = np.zeros((7, 7), bool)
    mask[1:6, 1:6] = True
    assert erode(mask).sum() == 9
    assert not erode(np.ones((1, 5), bool)).any()


@pytest.mark.parametrize("color", list(COLORS))
def test_every_color_of_the_world_on_every_shape(color):
    namer = micro_grounded_sam().color.open()
    scenes = [Scene(Background(), (SceneObject(shape, color, 16, 16, 9),)) for shape in SHAPES]
    rendered = render(scenes)
    for image, masks in zip(rendered.images, rendered.masks, strict=True):
        assert namer.name_colors([image], [masks], [["x"]]) == [[color]]


@given(st.sampled_from(GENEVAL_COLORS), st.integers(-12, 12))
def test_reference_colors_are_named_in_dim_and_bright_light(reference, shift):
    name, rgb = reference
    image = np.clip(np.full((8, 8, 3), rgb) + shift, 0, 255).astype(np.uint8)
    assert PixelColorNamer(PixelColorConfig()).name_colors([image], [np.ones((1, 8, 8), bool)], [["x"]]) == [[name]]


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((139, 0, 0), "red"),  # dark red
        ((90, 10, 15), "red"),  # wine
        ((0, 0, 128), "blue"),  # navy
        ((15, 20, 70), "blue"),  # midnight
        ((0, 0, 255), "blue"),
        ((173, 216, 230), "blue"),  # light blue
        ((135, 206, 235), "blue"),  # sky blue
        ((0, 100, 0), "green"),  # dark green
        ((144, 238, 144), "green"),  # light green
        ((75, 0, 130), "purple"),  # indigo
        ((138, 43, 226), "purple"),  # violet
        ((180, 150, 220), "purple"),  # lavender
        ((255, 192, 203), "pink"),
        ((255, 20, 147), "pink"),
        ((139, 69, 19), "brown"),
        ((80, 45, 25), "brown"),
        ((255, 215, 0), "yellow"),
        ((255, 140, 0), "orange"),
        ((40, 40, 42), "black"),
        ((200, 208, 220), "white"),  # white in a shadow
    ],
)
def test_dark_pale_and_saturated_tones_have_their_own_word(rgb, name):
    image = np.full((8, 8, 3), rgb, np.uint8)
    namer = PixelColorNamer(PixelColorConfig())
    assert namer.name_colors([image], [np.ones((1, 8, 8), bool)], [["x"]]) == [[name]]


def test_an_empty_mask_has_no_color():
    namer = PixelColorNamer(PixelColorConfig())
    assert namer.name_colors([np.zeros((4, 4, 3), np.uint8)], [np.zeros((1, 4, 4), bool)], [["x"]]) == [["unknown"]]
