# pyright: reportArgumentType=false
# diffusers' decorated methods have another signature.
"""Distil classifier-free guidance into the micro FLUX's guidance embedding, as FLUX.1-dev has it.

Teacher: the trained transformer with true guidance, v = v_empty + g (v_prompt - v_empty). Student: the same weights,
one forward pass, told g. On noised scenes, g uniform in `guidance_range` (Meng et al. 2023, stage one). Afterwards a
denoising step costs one forward pass in place of two, and `guidance_scale` means what it means for FLUX.1-dev.
"""

from __future__ import annotations

import copy
import shutil
from dataclasses import dataclass

from inference.sound_weights import sound_weights
from microworld.training.flux import load_frozen_vae, open_pool, score_pipeline
from microworld.training.training import Training
from microworld.training.training_loop import MicroTrainingConfig, autocast, export_folder, prepare_process


@dataclass(frozen=True)
class GuidanceRecipe:
    batch_size: int = 64
    learning_rate: float = 4e-4
    ema_decay: float = 0.995
    guidance_range: tuple[float, float] = (1.0, 4.5)
    time_shift: float = 0.4
    compile: bool = True
    bf16: bool = True
    score_guidances: tuple[float, ...] = (2.0, 2.5, 3.0, 3.5)
    score_per_tag: int = 20
    score_steps: int = 8


def train(config: MicroTrainingConfig, recipe: GuidanceRecipe | None = None) -> None:
    """Reads `out_dir/flux`, trains for `config.minutes`, writes its transformer back."""
    import numpy as np
    import torch

    from inference.flux.latents import image_ids, pack
    from inference.flux.plain_attention import use_plain_attention
    from microworld.training.flux_model import TEXT_LENGTHS, save_pipeline
    from microworld.training.latent_pool import Tokenize

    recipe = recipe or GuidanceRecipe()
    prepare_process(config)
    teacher_folder = config.work_dir / "flux_before_guidance"
    if not (teacher_folder / "model_index.json").exists():
        # The student goes to where the teacher was: keep the teacher, or a second start would learn from itself.
        export_folder(
            lambda folder: shutil.copytree(config.out_dir / "flux", folder, dirs_exist_ok=True), teacher_folder
        )
    pipeline = load_pipeline(teacher_folder, config.device)
    if config.device == "cpu":
        use_plain_attention(pipeline.transformer)
    pool = open_pool(config, load_frozen_vae(config))
    if len(pool) == 0:
        pool.grow(30_000)
    t5, clip = (m.requires_grad_(False).eval() for m in (pipeline.text_encoder_2, pipeline.text_encoder))
    student = pipeline.transformer.train()
    teacher = copy.deepcopy(student).requires_grad_(False).eval()
    optimizer = torch.optim.AdamW(student.parameters(), recipe.learning_rate, betas=(0.9, 0.99), fused=True)
    training = Training(
        config, "flux-guidance", student, [(optimizer, recipe.learning_rate)], ema_decay=recipe.ema_decay, warmup=0.02
    )
    clock = training.clock
    rng = np.random.default_rng(training.seed(31))
    torch.manual_seed(config.seed * 1_000_003 + clock.num_steps)
    tokenize, img_ids = Tokenize(), image_ids(4, 4).to(config.device)
    empty = {n: [torch.from_numpy(i).long().to(config.device) for i in tokenize([""], n)] for n in TEXT_LENGTHS}
    run = torch.compile(velocity, dynamic=False) if recipe.compile else velocity

    def loss_of_batch(length: int | None = None) -> torch.Tensor:
        scenes = pool.draw(rng, recipe.batch_size, length)
        x0 = pack(torch.from_numpy(scenes.latents).float().to(config.device))
        ids = [torch.from_numpy(i).long().to(config.device) for i in (scenes.t5_ids, scenes.clip_ids)]
        nothing = [i.expand(len(x0), -1) for i in empty[ids[0].shape[1]]]
        txt_ids = torch.zeros(ids[0].shape[1], 3, device=config.device)
        t = torch.sigmoid(recipe.time_shift + torch.randn(len(x0), device=x0.device))
        noisy = torch.lerp(x0, torch.randn_like(x0), t[:, None, None])
        low, high = recipe.guidance_range
        guidance = low + (high - low) * torch.rand(len(x0), device=x0.device)
        with autocast(config.device, recipe.bf16):
            with torch.no_grad():
                text, no_text = ((t5(input_ids=a)[0], clip(input_ids=b).pooler_output) for a, b in (ids, nothing))
                right = run(teacher, noisy, t, guidance, *text, img_ids, txt_ids).float()
                free = run(teacher, noisy, t, guidance, *no_text, img_ids, txt_ids).float()
                target = torch.lerp(free, right, guidance[:, None, None])
            predicted = run(student, noisy, t, guidance, *text, img_ids, txt_ids)
        return (predicted.float() - target).square().mean()

    for length in TEXT_LENGTHS:
        training.warm_up(lambda length=length: loss_of_batch(length))
    while clock.running():
        loss = loss_of_batch()
        training.step(loss, recipe.batch_size, {"loss": loss.item()})
    training.checkpoint()
    with training.ema.applied(), torch.no_grad():
        pipeline.transformer.eval()
        export_folder(lambda folder: save_pipeline(pipeline, folder), config.out_dir / "flux")
        for guidance in recipe.score_guidances:
            sheet = config.work_dir / "sheets" / f"flux_guidance_{guidance}.png"
            scores = score_pipeline(pipeline, recipe.score_per_tag, recipe.score_steps, sheet, 1.0, guidance)
            print(f"guidance {guidance}: " + "  ".join(f"{k} {v:.2f}" for k, v in scores.items()), flush=True)


def load_pipeline(folder, device: str):
    import torch
    from diffusers import FluxPipeline

    pipeline = FluxPipeline.from_pretrained(sound_weights(folder), dtype=torch.float32).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def velocity(transformer, noisy, t, guidance, prompt_embeds, pooled, img_ids, txt_ids):
    """noisy (B, 16, 16), t and guidance (B,), prompt_embeds (B, L, 128), pooled (B, 128) -> velocity (B, 16, 16)."""
    return transformer(
        hidden_states=noisy,
        timestep=t,
        guidance=guidance,
        encoder_hidden_states=prompt_embeds,
        pooled_projections=pooled,
        img_ids=img_ids,
        txt_ids=txt_ids,
        return_dict=False,
    )[0]
