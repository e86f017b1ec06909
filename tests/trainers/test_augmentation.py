"""What the teacher sees is changed by little, always the same by the same seed, and with a gradient."""

import pytest
import torch

from schemas.errors import InputError
from trainers.augmentation import AugmentationConfig, augmented

ALL = AugmentationConfig(shift=0.1, zoom=0.1, brightness=0.2, blur=0.03, noise=0.05)


def images(count=2, dtype=torch.float32):
    return torch.rand(count, 3, 24, 32, generator=torch.Generator().manual_seed(0), dtype=dtype)


def a_dot(row, column):
    """Black but for a square of three white pixels a side."""
    image = torch.zeros(1, 3, 40, 40)
    image[..., row - 1 : row + 2, column - 1 : column + 2] = 1
    return image


def middle_of(image):
    """(row, column) of what is white."""
    weight = image[0].mean(0)
    rows, columns = torch.arange(weight.shape[0]), torch.arange(weight.shape[1])
    return [float((weight.sum(1 - axis) * places).sum() / weight.sum()) for axis, places in ((0, rows), (1, columns))]


def test_the_same_seed_gives_the_same_whatever_stands_beside_it():
    both = augmented(images(), ALL, [5, 6], True)
    torch.testing.assert_close(augmented(images()[1:], ALL, [6], True), both[1:])
    assert both.shape == images().shape
    assert not augmented(images(), ALL, [7, 6], True)[0].equal(both[0])
    assert augmented(images().bfloat16(), ALL, [5, 6], True).dtype == torch.float32


@pytest.mark.parametrize("name", ["shift", "zoom", "brightness", "blur", "noise"])
def test_each_alone_changes_an_image_and_nothing_changes_none(name):
    config = AugmentationConfig(**{name: 0.1})
    changed = augmented(images(), config, [5, 6], True)
    assert 1e-3 < float((changed - images()).abs().mean()) < 0.4
    assert config.is_on
    assert not AugmentationConfig().is_on
    assert augmented(images(), AugmentationConfig(), [5, 6], True).equal(images())


def test_a_shift_moves_what_is_seen_by_at_most_its_share_and_a_zoom_about_the_middle():
    moved = [middle_of(augmented(a_dot(20, 20), AugmentationConfig(shift=0.1), [seed], True)) for seed in range(8)]
    offsets = [abs(at - 20) for place in moved for at in place]
    assert 2 < max(offsets) <= 4.01  # a tenth of 40
    zoomed = [middle_of(augmented(a_dot(10, 20), AugmentationConfig(zoom=0.2), [seed], True)) for seed in range(8)]
    assert all(abs(column - 19.9) < 0.2 for _, column in zoomed)
    assert 0.5 < max(abs(row - 10) for row, _ in zoomed) <= 2.3


def test_under_a_visual_prompt_nothing_moves():
    still = augmented(a_dot(10, 20), AugmentationConfig(shift=0.3, zoom=0.3, blur=0.05), [3], False)
    assert middle_of(still) == pytest.approx([10, 20], abs=1e-3)
    assert float(still.max()) < 0.9  # it is blurred all the same
    assert float(still.sum()) == pytest.approx(27, rel=1e-3)


def test_the_gradient_is_what_finite_differences_say():
    shown = images(1, torch.float64)[..., :8, :8].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: augmented(x, ALL, [5], True), (shown,))


@pytest.mark.parametrize(("name", "value"), [("shift", -0.1), ("zoom", 1.0), ("blur", 0.5), ("noise", float("nan"))])
def test_what_would_leave_nothing_of_an_image_is_refused(name, value):
    with pytest.raises(InputError) as refused:
        AugmentationConfig(**{name: value})
    assert refused.value.field == f"augmentation.{name}"
