"""Train the reader of the micro family: a LoRA of the micro VLM that says what a prompt requires, in JSON.

From words alone: prompts whose requirements are known (`requirement_prompts`), and prompts of words that the world does
not know, of which it must say nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.interfaces import ChatRequest, Vlm
from inference.requirements.read_answer import read_answer
from inference.vlm.prompts import fill_prompt, load_prompt
from microworld.family import micro_qwen
from microworld.scenes.captions import caption_of_record
from microworld.scenes.requirement_prompts import (
    FORMS,
    Reading,
    answer_of,
    same_requirements,
    sample_reading,
)
from microworld.training.made_ahead import MadeAhead
from microworld.training.training import Training
from microworld.training.training_loop import MicroTrainingConfig, autocast, export_folder, prepare_process
from microworld.training.vlm_evaluation import Share
from microworld.training.vlm_model import CELL_PX
from microworld.training.vlm_rows import RowPacker, RowShape, Turn
from schemas.foreign_json import BadValue
from trainers.vlm_lora import add_lora, restore_adapter, save_adapter

if TYPE_CHECKING:
    import torch

    from microworld.training.vlm_forward import PackedRows

TEMPLATE = "micro/requirements"
_EVALUATION_SEED = 9_000_002


@dataclass(frozen=True)
class ReaderRecipe:
    """For two cores."""

    rank: int = 32
    batch_rows: int = 12
    row_tokens: int = 224
    learning_rate: float = 2e-3
    ema_decay: float = 0.99
    decay: float = 0.4
    evaluated: int = 40  # prompts of each form
    evaluate_every_s: float = 240.0
    bf16: bool | None = False  # None: measure which is faster here


def gpu_recipe() -> ReaderRecipe:
    """For one GPU and 2 minutes."""
    return ReaderRecipe(batch_rows=96, learning_rate=3e-3, ema_decay=0.997, evaluate_every_s=60.0, bf16=True)


def request_of(text: str) -> ChatRequest:
    """What a prompt's reader is asked."""
    return ChatRequest(fill_prompt(load_prompt(TEMPLATE), prompt=text))


def train(config: MicroTrainingConfig, recipe: ReaderRecipe | None = None) -> None:
    """Reads `out_dir/vlm`, trains for `config.minutes`, writes `out_dir/reader`."""
    from inference.vlm.adapters import load_vlm
    from inference.vlm.in_process import InProcessVlm
    from microworld.training.vlm import rows_to
    from microworld.training.vlm_forward import PackedForward

    recipe = recipe or (ReaderRecipe() if config.device == "cpu" else gpu_recipe())
    prepare_process(config)
    base, processor = load_vlm(config.out_dir / "vlm", "float32")
    model = add_lora(base, recipe.rank, task_type="CAUSAL_LM").to(config.device)
    if config.from_exported:
        restore_adapter(model, config.out_dir / "reader")
        recipe = replace(recipe, learning_rate=recipe.learning_rate / 2)
    optimizer = _adamw(model, recipe.learning_rate)
    packer = RowPacker(processor.tokenizer, RowShape(num_images=0, grid=(1, 1), length=recipe.row_tokens))
    training = Training(
        config, "reader", model, [(optimizer, recipe.learning_rate)], ema_decay=recipe.ema_decay, decay=recipe.decay
    )
    forward = PackedForward(base)

    def make_rows(number: int) -> tuple[PackedRows, int]:
        """Rows, and how many prompts stand in them; batch n is always the same."""
        return packed(packer, np.random.default_rng([config.seed, 88, number]), recipe.batch_rows)

    def loss_of(rows: PackedRows, use_bf16: bool) -> tuple[torch.Tensor, float]:
        with autocast(config.device, use_bf16):
            found = forward.answer_loss(rows_to(rows, config.device))
        return found.loss, float(found.accuracy)

    def evaluate() -> None:
        with training.ema.applied():
            model.eval()
            vlm = InProcessVlm.of(base, processor, micro_qwen(device=config.device, batch_size=32))
            shares = read_right(vlm, recipe.evaluated)
            model.train()
        print("reader: " + ", ".join(f"{form} {share}" for form, share in shares.items()), flush=True)
        values = {form: share.value for form, share in shares.items()}
        training.clock.curve.append({"minutes": training.clock.spent_s / 60, **values})
        training.clock.pause()

    use_bf16 = recipe.bf16
    if use_bf16 is None:
        use_bf16 = training.pick_bf16(lambda bf16: loss_of(make_rows(0)[0], bf16)[0], 4)
    batches = MadeAhead(make_rows, config.data_workers, first=training.clock.num_steps)
    training.clock.pause()
    while training.clock.running():
        rows, number = batches.next()
        loss, accuracy = loss_of(rows, use_bf16)
        training.step(loss, number, {"loss": loss.item(), "accuracy": accuracy})
        if config.evaluate and training.clock.due("evaluation", recipe.evaluate_every_s):
            evaluate()
    training.checkpoint()
    if config.evaluate:
        evaluate()
    with training.ema.applied():
        export_folder(lambda folder: _save(model, folder), config.out_dir / "reader")


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


def _save(model: Any, folder: Path) -> None:
    # The zoo's name for the base model: the folder that it was trained from is of this machine.
    save_adapter(model, folder, "micro/vlm")


def _adamw(model: torch.nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    import torch

    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(trained, learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
