"""Visual prompts: what is drawn, where, and that gradients pass."""

import numpy as np
import pytest

from inference.vlm.overlays import (
    ColorPalette,
    HorizonPosition,
    LineWeight,
    RelativeDepth,
    VisualComposition,
    draw_sketch,
    overlay,
    overlay_image,
)

GREY = np.full((32, 32, 3), 128, np.uint8)
SKETCH = draw_sketch([((0, 0, 255), (0.5, 0.0, 1.0, 1.0))], 32, (255, 255, 255))
ALL = [
    ColorPalette(((1, 2, 3), (4, 5, 6))),
    LineWeight(2 / 32),
    HorizonPosition(0.25),
    RelativeDepth((0.25, 0.5), (0.75, 0.5)),
    VisualComposition(SKETCH),
]


@pytest.mark.parametrize("prompt", ALL, ids=lambda prompt: type(prompt).__name__)
@pytest.mark.parametrize("size", [(32, 32), (448, 336)])
def test_layers_have_the_size_of_the_image_and_opacities_between_0_and_1(prompt, size):
    layer = prompt.layer(*size)
    assert layer.shape == (*size, 4)
    assert 0 <= layer[..., 3].min() <= layer[..., 3].max() <= 1
    assert layer[..., 3].max() > 0


def test_a_palette_hides_the_bottom_in_equal_parts_and_nothing_else():
    drawn = overlay_image(GREY, ALL[0])
    assert (drawn[:-5] == 128).all()
    assert (drawn[-5:, :16] == (1, 2, 3)).all()
    assert (drawn[-5:, 16:] == (4, 5, 6)).all()


def test_a_line_is_as_thick_as_its_weight_says():
    for weight in (1.0, 1.8, 3.0):
        assert LineWeight(weight / 32).layer(32, 32)[:, 16, 3].sum() == pytest.approx(weight, abs=1e-4)


def test_the_horizon_line_stands_where_it_should():
    opacity = HorizonPosition(0.25).layer(64, 64)[:, 10, 3]
    assert (opacity * (np.arange(64) + 0.5)).sum() / opacity.sum() == pytest.approx(16, abs=0.51)


def test_points_lie_where_they_should_and_only_their_letters_differ():
    layer = RelativeDepth((0.25, 0.5), (0.75, 0.5)).layer(32, 32)
    assert layer[16, 8, 3] == layer[16, 24, 3] == 1
    left, right = layer[:, :16, 3], layer[:, 16:, 3]
    assert (left != right).any()


def test_points_at_the_edge_keep_their_letters_inside():
    layer = RelativeDepth((0.99, 0.01), (0.01, 0.99)).layer(32, 32)
    middle = RelativeDepth((0.3, 0.3), (0.7, 0.7)).layer(32, 32)
    assert layer[..., 3].sum() == middle[..., 3].sum()


def test_a_sketch_is_blended_half_and_half():
    drawn = overlay_image(GREY, VisualComposition(SKETCH))
    assert drawn[3, 3].tolist() == pytest.approx([192, 192, 192], abs=1)
    assert drawn[3, 28].tolist() == pytest.approx([64, 64, 192], abs=1)


@pytest.mark.parametrize("prompt", ALL, ids=lambda prompt: type(prompt).__name__)
def test_an_overlaid_tensor_is_the_overlaid_array_and_its_gradient_is_what_shows_through(prompt):
    import torch

    layer = prompt.layer(32, 32)
    image = torch.full((32, 32, 3), 128.0, requires_grad=True)
    drawn = overlay(image, layer)
    np.testing.assert_allclose(drawn.detach().numpy(), overlay(GREY.astype(np.float32), layer), atol=1e-3)
    drawn.sum().backward()
    np.testing.assert_allclose(image.grad.numpy(), np.broadcast_to(1 - layer[..., 3:], (32, 32, 3)), atol=1e-6)


@pytest.mark.parametrize("size", [128, 504, 980])
def test_points_and_letters_are_as_large_as_the_image_and_seen_on_red(size):
    layer = RelativeDepth((0.25, 0.3), (0.99, 0.01)).layer(size, size)
    red = (layer[..., 3] > 0.9) & (layer[..., 1] < 30)
    rows, columns = np.nonzero(red[: size // 2, size // 2 :])
    assert 0.06 < np.ptp(rows) / size < 0.14  # B beside its point, inside of the image
    assert np.ptp(columns) / size < 0.2
    on_red = overlay_image(np.full((size, size, 3), (255, 0, 0), np.uint8), RelativeDepth((0.25, 0.3), (0.7, 0.8)))
    assert 0.002 < (on_red == 255).all(-1).mean() < 0.02  # the rims
