"""Train the first verifier of the micro family: the micro VLM with a reward token, LoRA and a Bradley-Terry head.

On pairs of one prompt whose better image is known: renders that differ by one operation, and generated images of which
the pixel scorer finds one right and the other wrong. `python -m trainers verifier` later trains one on a dataset's own
pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from inference.vlm.prompts import load_prompt
from trainers.bradley_terry import bradley_terry_loss
from trainers.micro.training import Training
from trainers.micro.training_loop import MicroTrainingConfig, autocast, export_folder, prepare_process
from trainers.micro.vlm_data import DataConfig, Subject, SubjectSource

if TYPE_CHECKING:
    from pathlib import Path

    import torch

LORA_TARGETS = r".*language_model\.layers\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


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
    data: DataConfig = field(default_factory=lambda: DataConfig(generated_share=0.5))
    num_generated_images: int = 4_000  # the VLM's pool
    held_out_generated: int = 300
    evaluate_every_s: float = 180.0
    evaluation_pairs: int = 200
    bf16: bool | None = None


def train(config: MicroTrainingConfig, recipe: VerifierRecipe | None = None) -> None:
    """Reads `out_dir/vlm`, trains for `config.minutes`, writes `out_dir/verifier`."""
    import numpy as np
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    from inference.vlm.reward_model import VerifierDescription, add_reward_token, reward_inputs, rewards_of
    from trainers.micro.vlm_images import open_pools

    recipe = recipe or VerifierRecipe()
    prepare_process(config)
    base: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(config.out_dir / "vlm", dtype=torch.float32)
    processor: Any = AutoProcessor.from_pretrained(config.out_dir / "vlm")
    description = VerifierDescription("micro/vlm", load_prompt("micro/verify"))
    add_reward_token(base, processor, description.reward_token)
    base.requires_grad_(False)
    lora = LoraConfig(r=recipe.rank, lora_alpha=recipe.rank, target_modules=LORA_TARGETS, lora_dropout=0.0)
    model: Any = get_peft_model(base, lora)
    vision = model.get_base_model().model.visual.requires_grad_(recipe.train_vision)
    head = torch.nn.Linear(base.config.text_config.hidden_size, 1, bias=False)
    modules = torch.nn.ModuleDict({"model": model, "head": head}).to(config.device)
    seen = {id(p) for p in vision.parameters()}
    rest = [p for p in modules.parameters() if p.requires_grad and id(p) not in seen]
    adamw = torch.optim.AdamW(rest, recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    optimizers = [(adamw, recipe.learning_rate)]
    if recipe.train_vision:
        slower = torch.optim.AdamW(list(vision.parameters()), recipe.vision_learning_rate, betas=(0.9, 0.98))
        optimizers.append((slower, recipe.vision_learning_rate))
    vae_pool, generated = open_pools(config, 0, recipe.num_generated_images)
    held_out = generated.hold_out(recipe.held_out_generated) if generated else []
    source = SubjectSource(recipe.data, vae_pool, generated)
    training = Training(config, "verifier", modules, optimizers, ema_decay=recipe.ema_decay, decay=recipe.decay)
    rng = np.random.default_rng(training.seed(83))

    def rewards(subjects: list[Subject], use_bf16: bool) -> torch.Tensor:
        images, prompts = [s.image for s in subjects], [s.caption.text for s in subjects]
        inputs = reward_inputs(processor, images, prompts, description).to(config.device)
        with autocast(config.device, use_bf16):
            return rewards_of(model, head.weight, dict(inputs)).float()

    def loss_of(use_bf16: bool) -> tuple[torch.Tensor, torch.Tensor]:
        pairs = source.draw_pairs(rng, recipe.batch_pairs)
        both = rewards([p[0] for p in pairs] + [p[1] for p in pairs], use_bf16)
        good, bad = both[: len(pairs)], both[len(pairs) :]
        return bradley_terry_loss(good, bad, "regularised"), (good > bad).float().mean()

    def evaluate() -> None:
        sets = {"renders": _rendered_pairs(recipe.evaluation_pairs), "generated": _generated_pairs(held_out)}
        with training.ema.applied(), torch.no_grad():
            model.eval()
            for name, pairs in sets.items():
                if not pairs:
                    continue
                both = [rewards([p[i] for p in pairs], False) for i in (0, 1)]
                right = int((both[0] > both[1]).sum())
                print(f"verifier: of {name} {right / len(pairs):.3f} ({right}/{len(pairs)}) preferred", flush=True)
                entry = {"minutes": training.clock.spent_s / 60, f"preferred_{name}": right / len(pairs)}
                training.clock.curve.append(entry)
            model.train()
        training.clock.pause()

    use_bf16 = recipe.bf16 if recipe.bf16 is not None else training.pick_bf16(lambda bf16: loss_of(bf16)[0], 4)
    while training.clock.running():
        loss, accuracy = loss_of(use_bf16)
        training.step(loss, recipe.batch_pairs, {"loss": loss.item(), "accuracy": accuracy.item()})
        if training.clock.due("evaluation", recipe.evaluate_every_s):
            evaluate()
    training.checkpoint()
    evaluate()
    with training.ema.applied(), torch.no_grad():
        model.eval()
        pairs = source.draw_pairs(rng, recipe.evaluation_pairs)
        scores = rewards([s for pair in pairs for s in pair], False)
        description = VerifierDescription(
            description.base_model, description.template, float(scores.mean()), float(scores.std())
        )
        export_folder(
            lambda folder: _save(folder, model, head, description, recipe.train_vision), config.out_dir / "verifier"
        )


def _save(folder: Path, model: Any, head: torch.nn.Linear, description: Any, with_vision: bool) -> None:
    import torch
    from safetensors.torch import save_file

    from inference.vlm.reward_model import HEAD, VISION_PREFIX, write_description

    model.save_pretrained(folder, save_embedding_layers=False)
    tensors = {HEAD: head.weight.detach().float().contiguous()}
    if with_vision:
        vision = model.get_base_model().model.visual.state_dict()
        tensors |= {f"{VISION_PREFIX}{k}": v.detach().to(torch.bfloat16).contiguous() for k, v in vision.items()}
    save_file(tensors, folder / "verifier.safetensors")
    write_description(folder, description)
    (folder / "README.md").unlink(missing_ok=True)


def _rendered_pairs(number: int) -> list[tuple[Subject, Subject]]:
    import numpy as np

    return SubjectSource(DataConfig()).draw_pairs(np.random.default_rng([9_000_002]), number)


def _generated_pairs(held_out: list[Any]) -> list[tuple[Subject, Subject]]:
    from trainers.micro.vlm_data import pairs_of

    return pairs_of(held_out)
