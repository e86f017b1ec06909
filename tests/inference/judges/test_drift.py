"""CMMD by hand on few points, and what it says of sets that are equal, alike, and far apart."""

import json

import numpy as np
import pytest
from PIL import Image

from commands.main import main
from inference.judges.drift import chance_level, cmmd


def unit(*rows):
    return np.array(rows, np.float32) / np.linalg.norm(rows, axis=1, keepdims=True)


def around(mean, number, seed):
    points = mean + np.random.default_rng(seed).normal(0, 0.3, (number, 3))
    return unit(*points)


def test_two_points_by_hand():
    # Orthogonal unit vectors are sqrt(2) apart: k = exp(-2 / 200); k(x, x) = 1.
    assert cmmd(unit([1, 0]), unit([0, 1])) == pytest.approx(1000 * (2 - 2 * np.exp(-0.01)))
    two, one = unit([1, 0], [0, 1]), unit([1, 0])
    k = np.exp(-0.01)
    assert cmmd(two, one) == pytest.approx(1000 * ((2 + 2 * k) / 4 + 1 - 2 * (1 + k) / 2))


def test_equal_sets_are_0_apart_in_any_order_and_the_distance_has_no_direction():
    x, y = around([1, 0, 0], 30, 1), around([0, 1, 0], 20, 2)
    assert cmmd(x, x[::-1]) == pytest.approx(0, abs=1e-9)
    assert cmmd(x, y) == pytest.approx(cmmd(y, x))
    assert cmmd(x, y) > 0


def test_what_moved_is_above_chance_and_what_did_not_is_not():
    x, alike, moved = around([1, 0, 0], 60, 1), around([1, 0, 0], 50, 2), around([1, 1, 0], 50, 3)
    assert cmmd(x, alike) < chance_level(x, alike) < cmmd(x, moved)
    assert chance_level(x, moved) < cmmd(x, moved)
    assert chance_level(x, alike, seed=1) == chance_level(x, alike, seed=1)


def draw(folder, color, number, seed):
    rng = np.random.default_rng(seed)
    (folder / "deeper").mkdir(parents=True)
    for i in range(number):
        pixels = np.clip(np.array(color) + rng.normal(0, 30, (32, 32, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "deeper" / f"{i}.png")


def test_the_command_says_how_far_and_what_chance_is(tmp_path, capsys):
    draw(tmp_path / "red", (200, 40, 40), 8, 1)
    draw(tmp_path / "red again", (200, 40, 40), 8, 2)
    draw(tmp_path / "blue", (40, 40, 200), 6, 3)
    found = {}
    for other in ("red again", "blue"):
        assert main(["drift", str(tmp_path / "red"), str(tmp_path / other), "--json"]) == 0
        found[other] = json.loads(capsys.readouterr().out)
    assert found["blue"]["cmmd"] > found["blue"]["by_chance"] > 0
    assert found["red again"]["cmmd"] < found["blue"]["cmmd"]
    assert found["blue"]["images"] == [8, 6]
    assert main(["drift", str(tmp_path / "red"), str(tmp_path / "blue")]) == 0
    assert "CMMD" in capsys.readouterr().out


def test_a_folder_without_images_is_named(tmp_path, capsys):
    draw(tmp_path / "red", (200, 40, 40), 2, 1)
    assert main(["drift", str(tmp_path / "red"), str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err
