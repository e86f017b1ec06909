"""Images side by side, as annotators see them."""

import numpy as np

from inference.vlm.grid import fit, image_grid


def test_the_grid_keeps_left_left():
    images = [np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), 255, np.uint8)]
    (both,) = image_grid(images)
    assert both.shape == (32, 64, 3)
    assert both[:, :32].max() == 0
    assert both[:, 32:].min() == 255


def test_images_are_made_to_fit_but_never_enlarged():
    image = np.zeros((40, 80, 3), np.uint8)
    assert fit(image, 20).shape == (10, 20, 3)
    assert fit(image, 100) is image
    assert image_grid([image, image], image_px=20)[0].shape == (10, 40, 3)


def test_images_of_other_heights_stand_beside_each_other_at_their_own_aspect():
    images = [np.zeros((40, 24, 3), np.uint8), np.full((20, 30, 3), 255, np.uint8)]
    (both,) = image_grid(images)
    assert both.shape == (20, 12 + 30, 3)
    assert both[:, :12].max() == 0
    assert np.array_equal(both[:, 12:], images[1])
