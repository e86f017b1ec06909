"""Train the reader of the micro family: a LoRA of the micro VLM that says what a prompt requires, in JSON.

From words alone: prompts whose requirements are known (`requirement_prompts`), and prompts of words that the world does
not know, of which it must say nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.interfaces import ChatRequest, Vlm
from inference.requirements.read_answer import read_answer
from inference.vlm.prompts import fill_prompt, load_prompt
from microworld.scenes.captions import caption_of_record
from microworld.scenes.requirement_prompts import (
    FORMS,
    Reading,
    answer_of,
    same_requirements,
    sample_reading,
)
from microworld.training.training_loop import MicroTrainingConfig
from microworld.training.vlm_adapter import AdapterRecipe, Lessons, train_adapter
from microworld.training.vlm_evaluation import Share
from microworld.training.vlm_model import CELL_PX
from microworld.training.vlm_rows import RowPacker, RowShape, Turn
from schemas.foreign_json import BadValue

if TYPE_CHECKING:
    from microworld.training.vlm_forward import PackedRows

TEMPLATE = "micro/requirements"
_EVALUATION_SEED = 9_000_002


@dataclass(frozen=True)
class ReaderRecipe(AdapterRecipe):
    """For two cores."""

    batch_rows: int = 12
    row_tokens: int = 224
    learning_rate: float = 2e-3
    evaluated: int = 40  # prompts of each form
    evaluate_every_s: float = 240.0
    bf16: bool | None = False


def gpu_recipe() -> ReaderRecipe:
    """For one GPU and 2 minutes."""
    return ReaderRecipe(batch_rows=96, learning_rate=3e-3, ema_decay=0.997, evaluate_every_s=60.0, bf16=True)


def request_of(text: str) -> ChatRequest:
    """What a prompt's reader is asked."""
    return ChatRequest(fill_prompt(load_prompt(TEMPLATE), prompt=text))


def train(config: MicroTrainingConfig, recipe: ReaderRecipe | None = None) -> None:
    """Reads `out_dir/vlm`, trains for `config.minutes`, writes `out_dir/reader`."""
    recipe = recipe or (ReaderRecipe() if config.device == "cpu" else gpu_recipe())

    def open_lessons(processor: Any) -> Lessons:
        packer = RowPacker(processor.tokenizer, RowShape(num_images=0, grid=(1, 1), length=recipe.row_tokens))

        def make_rows(number: int) -> tuple[PackedRows, int]:
            """Rows, and how many prompts stand in them."""
            return packed(packer, np.random.default_rng([config.seed, 88, number]), recipe.batch_rows)

        return Lessons(make_rows, lambda vlm: read_right(vlm, recipe.evaluated))

    train_adapter(config, recipe, "reader", open_lessons)


def packed(packer: RowPacker, rng: np.random.Generator, num_rows: int) -> tuple[PackedRows, int]:
    """Rows full of prompts and their answers, and how many these are."""
    rows: list[list[Turn]] = [[] for _ in range(num_rows)]
    room = [packer.room] * num_rows
    while True:
        reading = sample_reading(rng)
        turn = Turn("read", request_of(reading.text).text, answer_of(reading), sees_images=False)
        tokens = packer.num_tokens(turn)
        place = next((i for i, left in enumerate(room) if left >= tokens), None)
        if place is not None:
            rows[place].append(turn)
            room[place] -= tokens
        elif tokens <= packer.room:
            break  # all rows are full
    images = np.zeros((num_rows, 0, CELL_PX, CELL_PX, 3), np.uint8)
    return packer.pack(images, rows)[0], sum(len(row) for row in rows)


def read_right(vlm: Vlm, number: int, seed: int = 0) -> dict[str, Share]:
    """Of so many prompts of each form, of compositions that were not trained on, those of which the VLM says all that
    they require and nothing else."""
    found = {}
    for index, form in enumerate(FORMS):
        rng = np.random.default_rng([_EVALUATION_SEED, seed, index])
        kept = [sample_reading(rng, True, {form: 1.0}) for _ in range(number)]
        answers = vlm.answer([request_of(reading.text) for reading in kept])
        right = [is_right(reading, answer.text) for reading, answer in zip(kept, answers, strict=True)]
        found[form] = Share(sum(right), number)
    return found


def is_right(reading: Reading, answer: str) -> bool:
    """Whether whoever reads an answer takes from it what the prompt requires, in whatever order, and nothing else."""
    try:
        said = read_answer(answer, reading.text)
    except BadValue:
        return False
    wanted = read_answer(answer_of(reading), reading.text)
    alike = same_requirements(caption_of_record(said).clauses, caption_of_record(wanted).clauses)
    return alike and set(said.questions) == set(wanted.questions)
