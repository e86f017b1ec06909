"""Train a LoRA adapter of the micro VLM on packed rows of questions and answers: what reflector and reader share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.interfaces import Vlm
from microworld.family import micro_qwen
from microworld.training.made_ahead import MadeAhead
from microworld.training.training import Training
from microworld.training.training_loop import MicroTrainingConfig, autocast, export_folder, prepare_process
from microworld.training.vlm_evaluation import Share
from microworld.training.vlm_model import PATCH_PX, PIXEL_MEAN, PIXEL_STD, TEMPORAL_PATCH
from trainers.vlm_lora import ALL_LINEAR, add_lora, restore_adapter, save_adapter

if TYPE_CHECKING:
    import torch

    from microworld.training.vlm_forward import PackedForward, PackedRows

BASE = "micro/vlm"
"""The base model's name in an adapter's folder: the folder that it was trained from is of this machine."""


@dataclass(frozen=True)
class AdapterRecipe:
    """How an adapter learns; what it learns from is its own matter."""

    rank: int = 32
    sight_learns: bool = False  # the vision tower, too
    attack: float = 0.0  # how far, of 255, a half of the images is changed so as to be misread ...
    attack_every: int = 3  # ... in each so manieth step: it costs as much as the step
    learning_rate: float = 1e-3
    ema_decay: float = 0.99
    decay: float = 0.4
    evaluate_every_s: float = 180.0
    bf16: bool | None = None  # None: measure which is faster here


@dataclass(frozen=True)
class Lessons:
    """make_rows: batch n, always the same, and how many turns stand in it. measure: what a VLM with the adapter can, in
    shares by name."""

    make_rows: Callable[[int], tuple[PackedRows, int]]
    measure: Callable[[Vlm], Mapping[str, Share]]


def train_adapter(
    config: MicroTrainingConfig,
    recipe: AdapterRecipe,
    name: str,
    open_lessons: Callable[[Any], Lessons],
    *,
    save_more: Callable[[Path], None] | None = None,
    measure_first: bool = False,
) -> None:
    """Reads `out_dir/vlm`, trains for `config.minutes`, writes `out_dir/NAME`. open_lessons: from the VLM's processor,
    once the adapter is made. save_more: what else belongs into its folder. measure_first: the VLM itself, too."""
    from inference.vlm.adapters import load_vlm
    from inference.vlm.in_process import InProcessVlm
    from microworld.training.vlm import rows_to
    from microworld.training.vlm_forward import PackedForward

    prepare_process(config)
    base, processor = load_vlm(config.out_dir / "vlm", "float32")
    targets = ALL_LINEAR if recipe.sight_learns else None
    model = add_lora(base, recipe.rank, targets, task_type="CAUSAL_LM").to(config.device)
    rate = recipe.learning_rate
    if config.from_exported:
        restore_adapter(model, config.out_dir / name)
        rate /= 2
    optimizer = _adamw(model, rate)
    lessons = open_lessons(processor)
    training = Training(config, name, model, [(optimizer, rate)], ema_decay=recipe.ema_decay, decay=recipe.decay)
    forward = PackedForward(base)

    def loss_of(rows: PackedRows, use_bf16: bool) -> tuple[torch.Tensor, float]:
        rows = rows_to(rows, config.device)
        with autocast(config.device, use_bf16):
            if recipe.attack and training.clock.num_steps % recipe.attack_every == 0:
                rows = misread(forward, rows, recipe.attack)
            found = forward.answer_loss(rows)
        return found.loss, float(found.accuracy)

    def evaluate() -> None:
        with training.ema.applied():
            model.eval()
            shares = lessons.measure(InProcessVlm.of(base, processor, micro_qwen(device=config.device, batch_size=32)))
            model.train()
        print(f"{name}: " + ", ".join(f"{what} {share}" for what, share in shares.items()), flush=True)
        values = {what.replace(" ", "_"): share.value for what, share in shares.items()}
        training.clock.curve.append({"minutes": training.clock.spent_s / 60, **values})
        training.clock.pause()

    if config.evaluate and measure_first and not training.resumed:
        evaluate()  # of the VLM itself: the adapter adds nothing yet
    use_bf16 = recipe.bf16
    if use_bf16 is None:
        use_bf16 = training.pick_bf16(lambda bf16: loss_of(lessons.make_rows(0)[0], bf16)[0], 4)
    batches = MadeAhead(lessons.make_rows, config.data_workers, first=training.clock.num_steps)
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

    def save(folder: Path) -> None:
        save_adapter(model, folder, BASE)
        if save_more is not None:
            save_more(folder)

    with training.ema.applied():
        export_folder(save, config.out_dir / name)


def misread(forward: PackedForward, rows: PackedRows, furthest: float) -> PackedRows:
    """The rows, half of the images changed in their pixels by the sign of the loss's gradient, from a random start
    (Wong et al. 2020, "Fast is better than free"); each by another distance, at most `furthest` of 255."""
    import torch

    patches = rows.patches
    each = torch.rand(len(patches), 1, 1, device=patches.device) * 2 - 1
    distance = each.clamp(min=0) * furthest / 255 / PIXEL_STD
    start = (patches + distance * _alike(torch.rand_like(patches) * 2 - 1)).requires_grad_()
    loss = forward.answer_loss(replace(rows, patches=start)).loss
    (slope,) = torch.autograd.grad(loss, start)
    moved = start.detach() + 1.25 * distance * _alike(slope).sign() - patches
    white = (1 - PIXEL_MEAN) / PIXEL_STD
    moved = torch.minimum(torch.maximum(moved, -distance), distance)
    return replace(rows, patches=(patches + moved).clamp(-PIXEL_MEAN / PIXEL_STD, white))


def _alike(patches: torch.Tensor) -> torch.Tensor:
    """The same for both frames into which each image is doubled: patches (N, P, channels * frames * pixels)."""
    folded = patches.unflatten(-1, (-1, TEMPORAL_PATCH, PATCH_PX * PATCH_PX))
    return folded.mean(-2, keepdim=True).expand_as(folded).flatten(-3)


def _adamw(model: torch.nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    import torch

    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(trained, learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
