"""The micro teacher trains, is written as an adapter of the micro VLM, and learns No where nothing is what is asked."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from inference.dual.concept import QuestionAnswer
from inference.vlm.adapters import load_vlm
from inference.vlm.overlays import STRIP_SHARE, ColorPalette, HorizonPosition, LineWeight, RelativeDepth
from microworld.scenes.captions import PLACES, place_of
from microworld.scenes.overlay_questions import sample_missing
from microworld.scenes.questions import counted
from microworld.scenes.world import COLORS, FRAME_PX, Background, Scene, SceneObject, render
from microworld.training.fooled import FoolingImages, truth
from microworld.training.pixel_scorer import read_scene
from microworld.training.teacher import (
    KINDS,
    TeacherRecipe,
    denied,
    elsewhere,
    overlaid_rows,
    place_turns,
    placed_scene,
    plain_rows,
    texture,
    train,
    with_fooled,
)
from microworld.training.training_loop import MicroTrainingConfig
from microworld.training.vlm_adapter import misread
from microworld.training.vlm_data import NO, YES, SubjectSource
from microworld.training.vlm_forward import PackedForward
from microworld.training.vlm_model import PIXEL_STD
from microworld.training.vlm_rows import OVERLAID, RowPacker, Turn
from tests.support.tiny_vlm import save_tiny_vlm
from trainers.vqa_loss import TeacherConfig, VqaTeacher

TINY = TeacherRecipe(rank=4, overlaid_images=4, plain_images=2, evaluated=2)


@pytest.mark.slow
def test_a_teacher_is_trained_written_and_asked(tmp_path):
    save_tiny_vlm(tmp_path / "out" / "vlm")
    train(MicroTrainingConfig(0.05, tmp_path / "work", tmp_path / "out", num_threads=1), TINY)
    folder = tmp_path / "out" / "teacher"
    described = json.loads((folder / "adapter_config.json").read_text())
    assert described["base_model_name_or_path"] == "micro/vlm"
    curve = json.loads((tmp_path / "work" / "teacher_curve.json").read_text())
    measured = {"horizon_missing", "line_weight_right", "concept_in_a_texture"}
    assert any(measured <= point.keys() for point in curve)
    described["base_model_name_or_path"] = str(tmp_path / "out" / "vlm")
    (folder / "adapter_config.json").write_text(json.dumps(described))
    teacher = VqaTeacher(TeacherConfig(str(folder)))
    plain = VqaTeacher(TeacherConfig(str(tmp_path / "out" / "vlm")))
    names = {
        name for name, value in teacher.model.state_dict().items() if not plain.model.state_dict()[name].equal(value)
    }
    assert any("visual" in name for name in names)
    assert any("language" in name for name in names)


def test_things_are_asked_for_where_they_stand_and_elsewhere():
    rng = np.random.default_rng(8)
    for _ in range(200):
        scene = placed_scene(rng)
        for turn in place_turns(rng, scene):
            shown = {
                f"{counted(named)} {PLACES[place_of(item)]}"
                for item in scene.objects
                for named in (item.shape, f"{item.color} {item.shape}")
            }
            assert (turn.answer == YES) == any(f" {words}" in turn.question for words in shown), turn
    assert {elsewhere(rng, "top") for _ in range(200)} == set(PLACES) - {"top"}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_asked_about_is_missing(kind):
    rng = np.random.default_rng(1)
    cases = [sample_missing(rng, kind) for _ in range(40)]
    assert not any(case.agrees for case in cases)
    for case in cases:
        match kind:
            case "horizon":
                assert case.scene.background.kind != "horizon"
            case "line weight":
                assert all(item.stroke == 0 for item in case.scene.objects)
                assert all(item.cy + item.size / 2 < FRAME_PX * (1 - STRIP_SHARE) for item in case.scene.objects)
            case _:
                assert not case.scene.objects


def test_a_texture_shows_nothing_that_can_be_named():
    rng = np.random.default_rng(2)
    scenes = [read_scene(texture(rng), 0.03) for _ in range(60)]
    whole = [scene for scene in scenes if any(item.shape != "blob" and item.size > 8 for item in scene.objects)]
    assert len(whole) <= 3


def test_an_image_of_nothing_is_denied_whatever_it_is_asked_for():
    rng = np.random.default_rng(3)
    for _ in range(20):
        answers = {turn.answer for turn in denied(rng) if turn.task in ("concept", "verify", "yes_no")}
        assert answers == {NO}


def test_rows_hold_all_three_kinds_of_cases():
    rng = np.random.default_rng(4)
    recipe = TeacherRecipe(overlaid_images=60, plain_images=20)
    images, turns = overlaid_rows(rng, recipe)
    share = np.mean([turn.answer == YES for (turn,) in turns])
    assert images.shape == (60, 32, 32, 3)
    assert 0.2 < share < 0.6
    images, turns = plain_rows(rng, SubjectSource(recipe.data), recipe)
    assert images.shape == (20, 32, 32, 3)
    assert all(turns)


def test_misread_images_stay_near_and_raise_the_loss(tmp_path):
    save_tiny_vlm(tmp_path)
    model, processor = load_vlm(tmp_path, "float32")
    images, turns = overlaid_rows(np.random.default_rng(5), TeacherRecipe(overlaid_images=24))
    rows, _ = RowPacker(processor.tokenizer, OVERLAID).pack(images[:, None], turns)
    forward = PackedForward(model)
    torch.manual_seed(0)
    moved = misread(forward, rows, 8.0)
    distance = (moved.patches - rows.patches).abs().amax((1, 2)) * PIXEL_STD * 255
    assert distance.max() <= 8.001
    assert 4 <= int((distance == 0).sum()) <= 20
    frames = moved.patches.unflatten(-1, (3, 2, -1))
    assert frames[..., 0, :].equal(frames[..., 1, :])
    with torch.no_grad():
        assert forward.answer_loss(moved).loss > forward.answer_loss(rows).loss


def rendered(background, *objects):
    return render([Scene(background, objects)]).images[0]


def test_a_plain_reader_tells_what_is_true_and_holds_its_tongue_where_it_cannot():
    sky = Background("horizon", (120, 130, 150), (150, 140, 120), 12.0)
    ring = SceneObject("circle", "red", 16.0, 14.0, 14.0, 1.8)
    line, horizon = LineWeight(1.8 / FRAME_PX), HorizonPosition(12.0 / FRAME_PX)

    def true(overlay, image, question="?"):
        return truth(image, QuestionAnswer(question, overlays=(overlay,) if overlay else ()))

    assert true(horizon, rendered(sky)) is True
    assert true(horizon, rendered(replace(sky, horizon_px=20.0))) is False
    assert true(horizon, rendered(Background())) is False
    assert true(line, rendered(Background(), ring)) is True
    assert true(line, rendered(Background(), replace(ring, stroke=3.0))) is False
    assert true(line, rendered(Background(), replace(ring, stroke=0.0))) is False
    assert true(line, rendered(Background())) is False
    star = SceneObject("star", "yellow", 16.0, 16.0, 12.0)
    assert true(None, rendered(Background(), star), "Is there a yellow star?") is True
    assert true(None, rendered(Background(), replace(star, color="red")), "Is there a yellow star?") is False
    at_the_top = 'Does the image match the prompt "a photo of a star at the top"?'
    assert true(None, rendered(Background(), replace(star, cy=7.0)), at_the_top) is True
    assert true(None, rendered(Background(), star), at_the_top) is False
    assert true(None, rendered(Background(), replace(ring, stroke=0.0)), at_the_top) is False
    assert true(None, rendered(Background(), replace(star, cy=10.4)), at_the_top) is None
    palette = ColorPalette((COLORS["yellow"],))
    assert true(palette, rendered(Background(), star)) is True
    assert true(palette, rendered(Background())) is False
    assert true(RelativeDepth((0.5, 0.5), (0.1, 0.1)), rendered(Background(), star)) is None


def test_images_that_fooled_one_teacher_are_kept_and_learnt_by_the_next(tmp_path):
    images = np.random.default_rng(6).integers(0, 255, (3, 32, 32, 3)).astype(np.uint8)
    turns = [Turn("fooled", "Is it?", answer) for answer in (YES, NO, NO)]
    FoolingImages(images[:2], turns[:2]).save(tmp_path / "a.npz")
    FoolingImages(images[2:], turns[2:]).save(tmp_path / "b.npz")
    found = FoolingImages.load(tmp_path)
    assert found.turns == turns
    assert (found.images == images).all()
    assert not len(FoolingImages.load(tmp_path / "none"))
    blank, plain = np.zeros((200, 32, 32, 3), np.uint8), [[Turn("overlay", "?", NO)]] * 200
    mixed, asked = with_fooled(np.random.default_rng(7), blank, plain, found, 0.4)
    replaced = [turn for (turn,) in asked if turn.task == "fooled"]
    assert 50 < len(replaced) < 110
    assert 0.3 < np.mean([turn.answer == YES for turn in replaced]) < 0.7
    assert int((mixed.reshape(200, -1).max(1) > 0).sum()) == len(replaced)
    assert not blank.any()
