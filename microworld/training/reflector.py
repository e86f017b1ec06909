"""Train the first reflector of the micro family: a LoRA adapter of the micro VLM that names what an image lacks.

On single images and prompts whose corrections are known: the generator's own drawings, wrong and right, as the pixel
scorer reads them, and renders; prompts short and long. `python -m trainers reflector` later trains one on a dataset's
own reflections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.vlm.prompts import load_prompt
from inference.vlm.reflector_words import write_words
from microworld.family import micro_qwen
from microworld.scenes.long_captions import LONG
from microworld.training.made_ahead import MadeAhead
from microworld.training.training import Training
from microworld.training.training_loop import MicroTrainingConfig, autocast, export_folder, prepare_process
from microworld.training.vlm_data import DataConfig, Subject, SubjectSource, from_left_to_right, reflect
from microworld.training.vlm_evaluation import Share, reflections_right
from microworld.training.vlm_rows import SINGLE, RowPacker
from trainers.vlm_lora import add_lora, restore_adapter, save_adapter

if TYPE_CHECKING:
    import torch

    from microworld.training.vlm_forward import PackedRows
    from microworld.training.vlm_images import PooledImage


@dataclass(frozen=True)
class ReflectorRecipe:
    """For two cores."""

    rank: int = 32
    batch_images: int = 24
    prompts_per_image: int = 4
    learning_rate: float = 1e-3
    ema_decay: float = 0.99
    decay: float = 0.4
    data: DataConfig = field(
        default_factory=lambda: DataConfig(
            vae_share=0.0,
            generated_share=0.6,
            wrong_share=0.8,
            long_share=0.4,
            concept_share=0.0,
            relation_share=0.2,
        )
    )
    num_generated_images: int = 9_000
    num_relation_images: int = 4_000  # of coloured relations
    num_corrected_images: int = 0  # of the corrector beside the VLM, which learns from this reflector's words
    held_out_generated: int = 400
    evaluate_every_s: float = 180.0
    bf16: bool | None = None


def gpu_recipe() -> ReflectorRecipe:
    """For one GPU and 4 minutes: larger batches, and what a search looks at after its first round."""
    return ReflectorRecipe(
        batch_images=160,
        learning_rate=1.5e-3,
        ema_decay=0.997,
        num_generated_images=40_000,
        num_relation_images=24_000,
        num_corrected_images=24_000,
        bf16=True,
    )


def train(config: MicroTrainingConfig, recipe: ReflectorRecipe | None = None) -> None:
    """Reads `out_dir/vlm`, trains for `config.minutes`, writes `out_dir/reflector`."""
    import numpy as np

    from inference.vlm.adapters import load_vlm
    from microworld.training.vlm import rows_to
    from microworld.training.vlm_forward import PackedForward
    from microworld.training.vlm_images import open_pools

    recipe = recipe or (ReflectorRecipe() if config.device == "cpu" else gpu_recipe())
    prepare_process(config)
    base, processor = load_vlm(config.out_dir / "vlm", "float32")
    model = add_lora(base, recipe.rank, task_type="CAUSAL_LM").to(config.device)
    if config.from_exported:
        restore_adapter(model, config.out_dir / "reflector")
        recipe = replace(recipe, learning_rate=recipe.learning_rate / 2)
    optimizer = _adamw(model, recipe.learning_rate)
    _, generated = open_pools(
        config, 0, recipe.num_generated_images, recipe.num_corrected_images, recipe.num_relation_images
    )
    held_out = generated.hold_out(recipe.held_out_generated) if generated else []
    source = SubjectSource(recipe.data, None, generated)
    packer = RowPacker(processor.tokenizer, SINGLE)
    training = Training(
        config, "reflector", model, [(optimizer, recipe.learning_rate)], ema_decay=recipe.ema_decay, decay=recipe.decay
    )
    forward = PackedForward(base)

    def make_rows(number: int) -> tuple[PackedRows, int]:
        """Rows with reflections asked for, and how many; batch n is always the same."""
        rng = np.random.default_rng([config.seed, 87, number])
        subjects = source.draw(rng, recipe.batch_images)
        turns = [[reflect(rng, subject) for _ in range(recipe.prompts_per_image)] for subject in subjects]
        rows, kept = packer.pack(np.stack([s.image for s in subjects])[:, None], turns)
        return rows, sum(len(turns) for turns in kept)

    def loss_of(rows: PackedRows, use_bf16: bool) -> tuple[torch.Tensor, float]:
        with autocast(config.device, use_bf16):
            found = forward.answer_loss(rows_to(rows, config.device))
        return found.loss, float(found.accuracy)

    def evaluate() -> None:
        with training.ema.applied():
            model.eval()
            figures = _true_reflections(base, processor, held_out, config.device)
            model.train()
        print("reflector: " + ", ".join(f"{name} {share}" for name, share in figures.items()), flush=True)
        values = {name.replace(" ", "_"): share.value for name, share in figures.items()}
        training.clock.curve.append({"minutes": training.clock.spent_s / 60, **values})
        training.clock.pause()

    if config.evaluate and not training.resumed:
        evaluate()  # of the VLM itself: the adapter adds nothing yet
    use_bf16 = recipe.bf16
    if use_bf16 is None:
        use_bf16 = training.pick_bf16(lambda bf16: loss_of(make_rows(0)[0], bf16)[0], 4)
    batches = MadeAhead(make_rows, config.data_workers, first=training.clock.num_steps)
    training.clock.pause()
    while training.clock.running():
        rows, num_turns = batches.next()
        loss, accuracy = loss_of(rows, use_bf16)
        training.step(loss, num_turns, {"loss": loss.item(), "accuracy": accuracy})
        if config.evaluate and training.clock.due("evaluation", recipe.evaluate_every_s):
            evaluate()
    training.checkpoint()
    if config.evaluate:
        evaluate()
    with training.ema.applied():
        # The zoo's name for the base model: the folder that it was trained from is of this machine.
        export_folder(lambda folder: _save(model, folder), config.out_dir / "reflector")


def _save(model: Any, folder: Path) -> None:
    save_adapter(model, folder, "micro/vlm")
    write_words(folder, load_prompt("micro/reflect"))


def _adamw(model: torch.nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    import torch

    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(trained, learning_rate, betas=(0.9, 0.98), weight_decay=0.01)


def _true_reflections(base: Any, processor: Any, held_out: Sequence[PooledImage], device: str) -> dict[str, Share]:
    """Of drawings that it never learnt on: of wrong ones whose reflection names what is wrong, by the kind of prompt,
    and of right ones of which it says so."""
    from inference.vlm.in_process import InProcessVlm

    vlm = InProcessVlm.of(base, processor, micro_qwen(device=device, batch_size=32))
    subjects = [Subject(item.image, from_left_to_right(item.scene), item.caption) for item in held_out]
    kinds = {
        "true of wrong drawings": [s for s in subjects if not s.is_right and s.caption.tag != LONG],
        "true of wrong long ones": [s for s in subjects if not s.is_right and s.caption.tag == LONG],
        "right ones left alone": [s for s in subjects if s.is_right],
    }
    return {name: reflections_right(vlm, some) for name, some in kinds.items() if some}
