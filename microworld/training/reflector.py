"""Train the first reflector of the micro family: a LoRA adapter of the micro VLM that names what an image lacks.

On single images and prompts whose corrections are known: the generator's own drawings, wrong and right, as the pixel
scorer reads them, and renders; prompts short and long. `python -m trainers reflector` later trains one on a dataset's
own reflections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.interfaces import Vlm
from inference.vlm.prompts import load_prompt
from inference.vlm.reflector_words import write_words
from microworld.scenes.long_captions import LONG
from microworld.training.training_loop import MicroTrainingConfig
from microworld.training.vlm_adapter import AdapterRecipe, Lessons, train_adapter
from microworld.training.vlm_data import DataConfig, Subject, SubjectSource, from_left_to_right, reflect
from microworld.training.vlm_evaluation import Share, reflections_right
from microworld.training.vlm_rows import SINGLE, RowPacker

if TYPE_CHECKING:
    from microworld.training.vlm_forward import PackedRows
    from microworld.training.vlm_images import PooledImage


@dataclass(frozen=True)
class ReflectorRecipe(AdapterRecipe):
    """For two cores."""

    batch_images: int = 24
    prompts_per_image: int = 4
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

    from microworld.training.vlm_images import open_pools

    recipe = recipe or (ReflectorRecipe() if config.device == "cpu" else gpu_recipe())

    def open_lessons(processor: Any) -> Lessons:
        _, generated = open_pools(
            config, 0, recipe.num_generated_images, recipe.num_corrected_images, recipe.num_relation_images
        )
        held_out = generated.hold_out(recipe.held_out_generated) if generated else []
        source = SubjectSource(recipe.data, None, generated)
        packer = RowPacker(processor.tokenizer, SINGLE)

        def make_rows(number: int) -> tuple[PackedRows, int]:
            """Rows with reflections asked for, and how many."""
            rng = np.random.default_rng([config.seed, 87, number])
            subjects = source.draw(rng, recipe.batch_images)
            turns = [[reflect(rng, subject) for _ in range(recipe.prompts_per_image)] for subject in subjects]
            rows, kept = packer.pack(np.stack([s.image for s in subjects])[:, None], turns)
            return rows, sum(len(turns) for turns in kept)

        return Lessons(make_rows, lambda vlm: _true_reflections(vlm, held_out))

    train_adapter(config, recipe, "reflector", open_lessons, save_more=_save_words, measure_first=True)


def _save_words(folder: Path) -> None:
    write_words(folder, load_prompt("micro/reflect"))


def _true_reflections(vlm: Vlm, held_out: Sequence[PooledImage]) -> dict[str, Share]:
    """Of drawings that it never learnt on: of wrong ones whose reflection names what is wrong, by the kind of prompt,
    and of right ones of which it says so."""
    subjects = [Subject(item.image, from_left_to_right(item.scene), item.caption) for item in held_out]
    kinds = {
        "true of wrong drawings": [s for s in subjects if not s.is_right and s.caption.tag != LONG],
        "true of wrong long ones": [s for s in subjects if not s.is_right and s.caption.tag == LONG],
        "right ones left alone": [s for s in subjects if s.is_right],
    }
    return {name: reflections_right(vlm, some) for name, some in kinds.items() if some}
