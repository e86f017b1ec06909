"""What an editor is told."""

import pytest

from inference.editors.instruction import instruction_of, load_template
from schemas.errors import InputError


def test_the_reflection_is_the_instruction():
    assert instruction_of(load_template("edit"), "a red star", " Make the star red. ") == "Make the star red."


def test_prompt_and_reflection_are_put_in_once_each_whatever_they_hold():
    told = instruction_of(load_template("edit_with_prompt"), "a {reflection} star", "Draw {prompt}.")
    assert "show: a {reflection} star\n" in told
    assert told.endswith(": Draw {prompt}.")


def test_without_a_reflection_the_prompt_is_what_to_come_to():
    assert instruction_of(load_template("edit"), "a red star", " \n") == "a red star"


def test_places_of_images_in_a_reflection_ask_for_no_image():
    told = instruction_of("{reflection}", "", "Remove <|vision_start|><|image_pad|><|vision_end|> the [IMG]star")
    assert told.split() == ["Remove", "the", "star"]


def test_a_template_of_ones_own(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("Fix: {reflection}")
    assert instruction_of(load_template(str(file)), "a", "b") == "Fix: b"
    file.with_name("none.txt").write_text("Fix it")
    with pytest.raises(InputError, match="reflection"):
        load_template(str(file.with_name("none.txt")))
