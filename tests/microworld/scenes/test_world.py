import numpy as np
import pytest

from microworld.scenes.world import (
    COLORS,
    FRAME_PX,
    MIN_GAP_PX,
    SHAPES,
    Background,
    Scene,
    SceneObject,
    between,
    random_scene,
    render,
)

GREY = Background("plain", (140, 140, 140), (140, 140, 140))


def scenes(count: int, seed: int = 0) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [random_scene(rng) for _ in range(count)]


@pytest.mark.parametrize("size_px", [32, 48])
def test_boxes_are_tight_around_masks(size_px):
    rendered = render(scenes(60), size_px)
    for masks, boxes in zip(rendered.masks, rendered.boxes, strict=True):
        for mask, (x0, y0, x1, y1) in zip(masks, boxes.astype(int), strict=True):
            assert mask.any()
            assert mask[y0:y1, x0:x1].sum() == mask.sum()
            assert mask[y0].any()
            assert mask[y1 - 1].any()
            assert mask[:, x0].any()
            assert mask[:, x1 - 1].any()


def test_objects_stay_inside_the_frame_and_apart():
    for scene in scenes(300):
        for i, a in enumerate(scene.objects):
            assert a.size / 2 <= min(a.cx, a.cy)
            assert max(a.cx, a.cy) <= FRAME_PX - a.size / 2
            for b in scene.objects[:i]:
                gap = max(abs(a.cx - b.cx), abs(a.cy - b.cy)) - (a.size + b.size) / 2
                assert gap >= MIN_GAP_PX - 1e-9


def test_masks_of_random_scenes_do_not_touch():
    for masks in render(scenes(200)).masks:
        grown = np.zeros(masks.shape, bool)  # each mask with its eight neighbours
        padded = np.pad(masks, ((0, 0), (1, 1), (1, 1)))
        for dy in range(3):
            for dx in range(3):
                grown |= padded[:, dy : dy + FRAME_PX, dx : dx + FRAME_PX]
        for i in range(len(masks)):
            for j in range(i):
                assert not (grown[i] & masks[j]).any()


def test_interior_pixels_have_the_exact_colour():
    for shape in SHAPES:
        for color, rgb in COLORS.items():
            rendered = render([Scene(GREY, (SceneObject(shape, color, 16.2, 15.7, 14.0),))])
            mask = rendered.masks[0][0]
            values = rendered.images[0][mask]
            assert (values == rgb).all(1).sum() >= 0.4 * mask.sum(), (shape, color)


def test_every_shape_fills_its_bounding_square():
    for shape in SHAPES:
        box = render([Scene(GREY, (SceneObject(shape, "red", 16, 16, 14.0),))]).boxes[0][0]
        assert abs(box - np.array([9, 9, 23, 23])).max() <= 2, (shape, box)


def test_shapes_differ_from_each_other_at_the_smallest_size():
    masks = {s: render([Scene(GREY, (SceneObject(s, "red", 16, 16, 8.0),))]).masks[0][0] for s in SHAPES}
    for a in SHAPES:
        for b in SHAPES:
            if a < b:
                assert (masks[a] ^ masks[b]).sum() >= 6, (a, b)


def mask_of(shape: str) -> np.ndarray:
    return render([Scene(GREY, (SceneObject(shape, "red", 16, 16, 13.7),))], size_px=128).masks[0][0]


@pytest.mark.parametrize("shape", SHAPES)
def test_at_the_ends_of_the_way_between_two_shapes_are_the_two(shape):
    """The contour is kept as a distance in each direction, which draws every shape of the world again."""
    plain = mask_of(shape)
    for other in SHAPES:
        for name in (between(shape, other, 0.0), between(other, shape, 1.0)):
            assert (mask_of(name) ^ plain).sum() < 0.04 * plain.sum(), name


def test_half_way_between_two_shapes_is_neither_and_it_can_lean_to_one_side():
    square, circle, half = mask_of("square"), mask_of("circle"), mask_of(between("square", "circle", 0.5))
    between_them = (half ^ square).sum(), (half ^ circle).sum()
    assert min(between_them) > 0.3 * max(between_them)
    assert min(between_them) > 0.25 * (square ^ circle).sum()
    arch = mask_of(between("square", "circle", 0.5, 0.5, 270))  # a circle at the top, a square at the bottom
    upper, lower = np.s_[36:44], np.s_[84:92]
    assert (arch ^ circle)[upper].sum() < (arch ^ square)[upper].sum()
    assert (arch ^ square)[lower].sum() < (arch ^ circle)[lower].sum()


def test_later_objects_cover_earlier_ones():
    back, front = SceneObject("square", "red", 16, 16, 14.0), SceneObject("circle", "blue", 16, 16, 8.0)
    rendered = render([Scene(GREY, (back, front))])
    assert tuple(rendered.images[0][16, 16]) == COLORS["blue"]
    assert not (rendered.masks[0][0] & rendered.masks[0][1]).any()
    hidden = render([Scene(GREY, (front, back))])
    assert hidden.masks[0][0].sum() == 0
    assert (hidden.boxes[0][0] == 0).all()


def test_objects_may_stand_partly_or_wholly_outside():
    partly, wholly = SceneObject("square", "red", 0, 16, 12.0), SceneObject("star", "blue", -40, 90, 12.0)
    rendered = render([Scene(GREY, (partly, wholly))])
    assert rendered.boxes[0][0][0] == 0
    assert not rendered.masks[0][1].any()


def test_a_scene_looks_the_same_in_any_batch():
    many = scenes(30, seed=3)
    alone = render([many[7]])
    assert (render(many).images[7] == alone.images[0]).all()
    assert (render(many).masks[7] == alone.masks[0]).all()


def test_no_scenes_and_no_objects():
    assert render([]).images.shape == (0, 32, 32, 3)
    empty = render([Scene(Background("gradient", (100, 100, 100), (160, 160, 160)), ())])
    assert empty.masks[0].shape == (0, 32, 32)
    assert empty.images[0][0].mean() < empty.images[0][-1].mean()


@pytest.mark.parametrize("shape", SHAPES)
def test_an_outline_lies_inside_the_filled_shape_and_is_open(shape):
    filled = render([Scene(GREY, (SceneObject(shape, "red", 16, 16, 14.0),))])
    outlined = render([Scene(GREY, (SceneObject(shape, "red", 16, 16, 14.0, stroke=1.4),))])
    full, line = filled.masks[0][0], outlined.masks[0][0]
    assert not (line & ~full).any()
    assert line.sum() < (0.95 if shape == "ring" else 0.85) * full.sum()
    assert abs(filled.boxes[0][0] - outlined.boxes[0][0]).max() <= 2


def test_an_outline_is_as_wide_as_its_stroke():
    ring = render([Scene(GREY, (SceneObject("square", "red", 16, 16, 14.0, stroke=2.0),))]).images[0]
    # The square's side is .92 x 14 px: from 9.56 to 22.44; its left line ends at 11.56.
    row = np.abs(ring[16].astype(int) - 140).sum(1)
    widths = row / row.max()
    assert widths[9:13].sum() == pytest.approx(2.0, abs=0.2)
    assert row[13:19].max() == 0


def test_a_stroke_wider_than_the_shape_fills_it():
    filled, thick = (Scene(GREY, (SceneObject("star", "blue", 16, 16, 12.0, s),)) for s in (0.0, 9.0))
    images = render([filled, thick]).images
    assert (images[0] == images[1]).all()


def test_unknown_background_is_refused():
    with pytest.raises(ValueError, match="expected plain, gradient or horizon"):
        render([Scene(Background("stripes"), ())])
