"""The micro reader trains, goes on where it stopped, and is asked as a run asks it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from microworld.family import micro_vlm
from microworld.scenes.captions import Clause
from microworld.scenes.requirement_prompts import Reading
from microworld.training.reader import ReaderRecipe, is_right, packed, request_of, train
from microworld.training.training_loop import MicroTrainingConfig
from microworld.training.vlm_forward import PackedForward
from microworld.training.vlm_model import IM_END
from microworld.training.vlm_rows import RowPacker, RowShape
from tests.support.tiny_vlm import save_tiny_vlm

TEXT = RowShape(num_images=0, grid=(1, 1), length=320)


def test_rows_of_words_alone_are_the_conversations_that_transformers_sees(tmp_path):
    folder = save_tiny_vlm(tmp_path)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    rows, number = packed(RowPacker(processor.tokenizer, TEXT), np.random.default_rng(0), 2)
    with torch.no_grad():
        logits = model.lm_head(PackedForward(model).hidden_states(rows)[0])
    assert number == sum(int(row.max()) for row in rows.turn) > 2
    for b in range(2):
        for index in range(1, int(rows.turn[b].max()) + 1):
            here = rows.turn[b] == index
            prefix = rows.ids[b][rows.turn[b] == 0]
            alone = torch.cat([prefix, rows.ids[b][here]])[None]
            with torch.no_grad():
                expected = model(input_ids=alone, attention_mask=torch.ones_like(alone)).logits[0]
            torch.testing.assert_close(logits[b][here], expected[len(prefix) :], rtol=1e-4, atol=1e-4)
            learnt = rows.targets[b][here]
            text = processor.tokenizer.decode(learnt[learnt >= 0]).removesuffix(IM_END)
            assert set(json.loads(text)) == {"include", "questions"}


@pytest.mark.slow
def test_a_reader_is_trained_written_resumed_and_loaded(tmp_path):
    save_tiny_vlm(tmp_path / "out" / "vlm")
    config = MicroTrainingConfig(0.05, tmp_path / "work", tmp_path / "out", num_threads=1, evaluate=False)
    recipe = ReaderRecipe(rank=4, batch_rows=2, row_tokens=400)
    train(config, recipe)
    folder = tmp_path / "out" / "reader"
    described = json.loads((folder / "adapter_config.json").read_text())
    assert described["base_model_name_or_path"] == "micro/vlm"
    # Where the base model of a shipped reader lies, the zoo knows; here it is a folder.
    described["base_model_name_or_path"] = str(tmp_path / "out" / "vlm")
    (folder / "adapter_config.json").write_text(json.dumps(described))
    assert micro_vlm(str(folder)).open().answer([request_of("a star")])[0].text is not None
    curve = json.loads((tmp_path / "work" / "reader_curve.json").read_text())
    train(replace(config, minutes=curve[-1]["minutes"] + 0.05), recipe)
    assert len(json.loads((tmp_path / "work" / "reader_curve.json").read_text())) > len(curve)


STAR_AND_RING = Reading("", "a red star left of a ring", (Clause("ring"), Clause("star", 1, "red", ("left of", 0))))


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ('{"include": [{"class": " ring"}, {"class": " star", "color": " red", "position": [" left of", 0]}]}', True),
        ('{"include": [{"class": "ring"}, {"class": "star", "color": "red", "position": ["right of", 0]}]}', False),
        ('{"include": [{"class": "ring"}, {"class": "star", "color": "red"}], "questions": []}', False),
        ('{"include": [{"class": "star", "color": "red", "position": ["left of", 1]}, {"class": "ring"}]}', False),
        ('{"include": [], "questions": []}', False),
        ("A red star.", False),
    ],
)
def test_an_answer_is_right_where_it_says_all_and_nothing_else(answer, right):
    assert is_right(STAR_AND_RING, answer) is right
