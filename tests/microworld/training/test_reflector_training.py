"""The micro reflector trains, goes on where it stopped, and is written as an adapter of the micro VLM."""

import json
from dataclasses import replace

import numpy as np
import pytest

from inference.interfaces import ChatAnswer, ChatRequest, Vlm
from microworld.family import micro_vlm
from microworld.scenes.captions import Clause, caption_from_clauses, sample_scene, sample_training_caption
from microworld.scenes.world import Background, Scene, SceneObject, render
from microworld.training.reflector import ReflectorRecipe, train
from microworld.training.training_loop import MicroTrainingConfig
from microworld.training.vlm_data import Subject
from microworld.training.vlm_evaluation import reflections_right
from tests.support.tiny_vlm import save_tiny_vlm

TINY = ReflectorRecipe(rank=4, batch_images=4, num_generated_images=0, num_relation_images=0, bf16=False)


@pytest.mark.slow
def test_a_reflector_is_trained_written_resumed_and_loaded(tmp_path):
    save_tiny_vlm(tmp_path / "out" / "vlm")
    config = MicroTrainingConfig(0.05, tmp_path / "work", tmp_path / "out", num_threads=2)
    train(config, TINY)
    folder = tmp_path / "out" / "reflector"
    described = json.loads((folder / "adapter_config.json").read_text())
    assert described["base_model_name_or_path"] == "micro/vlm"
    # Where the base model of a shipped reflector lies, the zoo knows; here it is a folder.
    described["base_model_name_or_path"] = str(tmp_path / "out" / "vlm")
    (folder / "adapter_config.json").write_text(json.dumps(described))
    scene = sample_scene(np.random.default_rng(0), sample_training_caption(np.random.default_rng(0)))
    image = render([scene]).images[0]
    assert micro_vlm(str(folder)).open().answer([ChatRequest("What is wrong?", (image,))])[0].text is not None
    curve = json.loads((tmp_path / "work" / "reflector_curve.json").read_text())
    train(replace(config, minutes=curve[-1]["minutes"] + 0.05), TINY)
    assert len(json.loads((tmp_path / "work" / "reflector_curve.json").read_text())) > len(curve)


class Parrot(Vlm):
    """Says the same of every image."""

    def __init__(self, text):
        self.text = text

    def answer(self, requests):
        return [ChatAnswer(self.text, True, 0, 0) for _ in requests]

    def first_word_probabilities(self, requests, words):
        raise NotImplementedError("nobody asks a parrot")


def test_a_reflection_counts_where_it_names_what_the_image_lacks():
    caption = caption_from_clauses("colors", (Clause("star", 1, "red"),))
    wrong, right = (Scene(Background(), (SceneObject("star", color, 16.0, 16.0, 10.0),)) for color in ("blue", "red"))
    image = np.zeros((32, 32, 3), np.uint8)
    subjects = [Subject(image, scene, caption) for scene in (wrong, right)]
    assert reflections_right(Parrot("Make the star red."), subjects[:1]).right == 1
    assert reflections_right(Parrot("Make the star green."), subjects[:1]).right == 0
    assert reflections_right(Parrot("Make the star red."), subjects[1:]).right == 0
    assert reflections_right(Parrot("The image is right."), subjects).right == 1
