"""Train the first verifier of the micro family: the micro VLM with a reward token, LoRA and a Bradley-Terry head.

On pairs of one prompt whose better image is known: renders that differ by one operation, or of which one has a
malformed object, and drawings of which the pixel scorer finds one right and the other wrong or malformed. `python -m
trainers verifier` later trains one on a dataset's own pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from microworld.training.made_ahead import MadeAhead
from microworld.training.training import Training
from microworld.training.training_loop import MicroTrainingConfig, autocast, export_folder, prepare_process
from microworld.training.vlm_data import DataConfig, Subject, SubjectSource, pairs_of
from trainers.bradley_terry import bradley_terry_loss
from trainers.verifier import RewardModelConfig, RewardModelInTraining

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class VerifierRecipe:
    """For two cores."""

    rank: int = 32
    batch_pairs: int = 24
    learning_rate: float = 6e-4
    vision_learning_rate: float = 2e-4
    ema_decay: float = 0.99
    decay: float = 0.4
    train_vision: bool = True
    data: DataConfig = field(
        default_factory=lambda: DataConfig(generated_share=0.5, relation_share=0.3, malformed_share=0.4)
    )
    num_generated_images: int = 4_000  # the VLM's pool
    num_relation_images: int = 8_000  # of coloured relations
    num_corrected_images: int = 6_000  # of the corrector: what a search has after its first round
    held_out_generated: int = 300
    evaluate_every_s: float = 180.0
    evaluation_pairs: int = 200
    bf16: bool | None = None


def gpu_recipe() -> VerifierRecipe:
    """For one GPU and 4 minutes: larger batches, far more drawings."""
    return VerifierRecipe(
        batch_pairs=160,
        learning_rate=8e-4,
        vision_learning_rate=3e-4,
        ema_decay=0.997,
        data=DataConfig(generated_share=0.75, relation_share=0.3, malformed_share=0.4),
        num_generated_images=40_000,
        num_relation_images=24_000,
        num_corrected_images=24_000,
        held_out_generated=1000,
        bf16=True,
    )


def train(config: MicroTrainingConfig, recipe: VerifierRecipe | None = None) -> None:
    """Reads `out_dir/vlm` (and `out_dir/verifier`, to go on from there), trains for `config.minutes`, writes
    `out_dir/verifier`."""
    import numpy as np
    import torch

    from microworld.training.vlm_images import open_pools

    recipe = recipe or (VerifierRecipe() if config.device == "cpu" else gpu_recipe())
    prepare_process(config)
    base = str(config.out_dir / "vlm")
    made = RewardModelInTraining(
        RewardModelConfig(base, "micro/verify", recipe.rank, recipe.train_vision, config.device)
    )
    if config.from_exported:
        made.restore(config.out_dir / "verifier")
        halved = (recipe.learning_rate / 2, recipe.vision_learning_rate / 2)
        recipe = replace(recipe, learning_rate=halved[0], vision_learning_rate=halved[1])
    seen = {id(p) for p in made.vision.parameters()}
    rest = [p for p in made.module.parameters() if p.requires_grad and id(p) not in seen]
    adamw = torch.optim.AdamW(rest, recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    optimizers = [(adamw, recipe.learning_rate)]
    if recipe.train_vision:
        slower = torch.optim.AdamW(list(made.vision.parameters()), recipe.vision_learning_rate, betas=(0.9, 0.98))
        optimizers.append((slower, recipe.vision_learning_rate))
    vae_pool, generated = open_pools(
        config, 0, recipe.num_generated_images, recipe.num_corrected_images, recipe.num_relation_images
    )
    held_out = generated.hold_out(recipe.held_out_generated) if generated else []
    source = SubjectSource(recipe.data, vae_pool, generated)
    training = Training(config, "verifier", made.module, optimizers, ema_decay=recipe.ema_decay, decay=recipe.decay)

    def make_inputs(number: int) -> dict[str, torch.Tensor]:
        """Of the better images of a batch of pairs, then of the worse; batch n is always the same."""
        pairs = source.draw_pairs(np.random.default_rng([config.seed, 83, number]), recipe.batch_pairs)
        subjects = [pair[i] for i in (0, 1) for pair in pairs]
        return made.inputs([s.image for s in subjects], [s.caption.text for s in subjects])

    def rewards(subjects: list[Subject]) -> torch.Tensor:
        return made.rewards([s.image for s in subjects], [s.caption.text for s in subjects])

    def loss_of(inputs: dict[str, torch.Tensor], use_bf16: bool) -> tuple[torch.Tensor, torch.Tensor]:
        with autocast(config.device, use_bf16):
            good, bad = made.rewards_of(inputs).chunk(2)
        return bradley_terry_loss(good, bad, "regularised"), (good > bad).float().mean()

    def evaluate() -> None:
        sets = {
            "renders": _rendered_pairs(recipe.evaluation_pairs, DataConfig()),
            "relations": _rendered_pairs(recipe.evaluation_pairs, DataConfig(relation_share=1.0, long_pair_share=0.0)),
            "malformed": _rendered_pairs(recipe.evaluation_pairs, DataConfig(malformed_share=1.0, long_pair_share=0.0)),
            "generated": pairs_of(held_out),
        }
        with training.ema.applied(), torch.no_grad():
            made.module.eval()
            for name, pairs in sets.items():
                if not pairs:
                    continue
                good, bad = (rewards([p[i] for p in pairs]) for i in (0, 1))
                right = int((good > bad).sum())
                print(f"verifier: of {name} {right / len(pairs):.3f} ({right}/{len(pairs)}) preferred", flush=True)
                entry = {"minutes": training.clock.spent_s / 60, f"preferred_{name}": right / len(pairs)}
                training.clock.curve.append(entry)
            made.module.train()
        training.clock.pause()

    use_bf16 = recipe.bf16
    if use_bf16 is None:
        use_bf16 = training.pick_bf16(lambda bf16: loss_of(make_inputs(0), bf16)[0], 4)
    batches = MadeAhead(make_inputs, config.data_workers, first=training.clock.num_steps)
    training.clock.pause()
    while training.clock.running():
        loss, accuracy = loss_of(batches.next(), use_bf16)
        training.step(loss, recipe.batch_pairs, {"loss": loss.item(), "accuracy": accuracy.item()})
        if training.clock.due("evaluation", recipe.evaluate_every_s):
            evaluate()
    training.checkpoint()
    evaluate()
    with training.ema.applied(), torch.no_grad():
        made.module.eval()
        pairs = source.draw_pairs(np.random.default_rng([config.seed, 84]), recipe.evaluation_pairs)
        scores = rewards([s for pair in pairs for s in pair])
        # The zoo's name for the base model: the folder that it was trained from is of this machine.
        made.description = replace(made.description, base_model="micro/vlm")
        mean, std = float(scores.mean()), float(scores.std())
        export_folder(lambda folder: made.save(folder, mean, std), config.out_dir / "verifier")


def _rendered_pairs(number: int, data: DataConfig) -> list[tuple[Subject, Subject]]:
    import numpy as np

    return SubjectSource(data).draw_pairs(np.random.default_rng([9_000_002]), number)
