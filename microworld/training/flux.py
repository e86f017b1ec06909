# pyright: reportArgumentType=false
# A ModuleDict forgets which modules it holds, and diffusers' decorated methods have another signature.
"""Train the micro FLUX (transformer, T5 and CLIP text jointly) on captioned scenes, as VAE latents.

Flow matching as FLUX has it: x_t = (1 - t) x0 + t noise, target = noise - x0, t = sigmoid(shift + N(0, 1)).
A tenth of the captions is dropped, so that true classifier-free guidance works. Beside the velocity, a linear head
on the image tokens of a middle block must name the shape and the colour that each token will show: representation
alignment (REPA, Yu et al. 2024) with the renderer's truth in place of an image encoder's features. It tells the blocks
what goes where long before the pixels' loss does, and is thrown away afterwards. Matrices of the blocks are
stepped by Muon, everything else by AdamW. The result is an ordinary `FluxPipeline` folder with the averaged (EMA)
weights, written every few minutes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inference.sound_weights import sound_weights
from microworld.training.training import Training
from microworld.training.training_loop import MicroTrainingConfig, autocast, export_folder, prepare_process

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKL, FluxPipeline

    from microworld.training.latent_pool import LatentPool


@dataclass(frozen=True)
class FluxRecipe:
    """What was measured to work on two cores within an hour."""

    batch_size: int = 96  # Muon's matrix products cost a third of a step of 64
    learning_rate: float = 1.2e-3  # AdamW
    muon_learning_rate: float = 1.2e-3  # scaled to AdamW's step size; 0: AdamW alone
    weight_decay: float = 0.01
    align_weight: float = 0.5  # of the two token classifications' mean cross-entropy; 0: none
    warmup: float = 0.01  # shares of the budget
    decay: float = 0.2
    ema_decay: float = 0.997
    time_shift: float = 0.4
    caption_dropout: float = 0.1
    text_pretraining_s: float = 150.0  # at most; it stops when it has learnt all
    compile: bool = True
    bf16: bool | None = None  # None: measure which is faster here
    pool_start: int = 30_000  # scenes before the first step
    pool_chunk: int = 10_000  # ...then one chunk more every pool_every_s
    pool_every_s: float = 100.0
    pool_end: int = 250_000
    score_every_s: float = 300.0
    export_every_s: float = 540.0
    score_per_tag: int = 20
    score_steps: int = 8
    score_true_cfg: float = 2.5


class FluxModel:
    """The trained modules with the forward pass of one training step."""

    def __init__(self, device: str, recipe: FluxRecipe) -> None:
        import torch

        from inference.flux.latents import image_ids
        from inference.flux.plain_attention import use_plain_attention
        from microworld.scenes.world import COLORS, SHAPES
        from microworld.training.flux_model import (
            TEXT_LENGTHS,
            build_clip_text,
            build_t5,
            build_transformer,
        )

        transformer = build_transformer()
        if device == "cpu":
            use_plain_attention(transformer)
        self.modules = torch.nn.ModuleDict({"transformer": transformer, "t5": build_t5(), "clip": build_clip_text()})
        self._head_sizes = (len(SHAPES) + 1, len(COLORS) + 1)
        self.modules["align"] = torch.nn.Linear(transformer.inner_dim, sum(self._head_sizes))
        self.modules.to(device)
        self._middle: list[torch.Tensor] = []
        # After two double blocks and one single one: the layout is decided, the drawing still to come.
        transformer.single_transformer_blocks[0].register_forward_hook(self._keep_middle)
        self._img_ids = image_ids(4, 4).to(device)
        self._txt_ids = {n: torch.zeros(n, 3, device=device) for n in TEXT_LENGTHS}
        self.compiled = torch.compile(self.forward, dynamic=False) if recipe.compile else self.forward

    def _keep_middle(self, block: object, inputs: object, output: tuple[torch.Tensor, torch.Tensor]) -> None:
        self._middle.append(output[1])

    def forward(
        self,
        noisy: torch.Tensor,
        t: torch.Tensor,
        guidance: torch.Tensor,
        t5_ids: torch.Tensor,
        clip_ids: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """noisy (B, 16, 16) packed latents, t and guidance (B,), ids (B, L) -> velocity (B, 16, 16), and the logits of
        each token's shape (B, 16, 9) and colour (B, 16, 9)."""
        self._middle.clear()
        prompt_embeds = self.modules["t5"](input_ids=t5_ids)[0]
        pooled = self.modules["clip"](input_ids=clip_ids).pooler_output
        velocity = self.modules["transformer"](
            hidden_states=noisy,
            timestep=t,
            guidance=guidance,
            encoder_hidden_states=prompt_embeds,
            pooled_projections=pooled,
            img_ids=self._img_ids,
            txt_ids=self._txt_ids[t5_ids.shape[1]],
            return_dict=False,
        )[0]
        shapes, colors = self.modules["align"](self._middle.pop()).split(self._head_sizes, dim=-1)
        return velocity, shapes, colors

    def optimizers(self, recipe: FluxRecipe) -> list[tuple[torch.optim.Optimizer, float]]:
        """Each with its peak learning rate: Muon for the matrices inside the blocks, AdamW for the rest."""
        import torch

        matrices, rest = [], []
        for name, parameter in self.modules.named_parameters():
            inside = name.startswith("transformer.") and "blocks." in name and ".norm" not in name
            use_muon = inside and parameter.ndim == 2 and recipe.muon_learning_rate > 0
            (matrices if use_muon else rest).append(parameter)
        decay = recipe.weight_decay
        adamw = torch.optim.AdamW(rest, recipe.learning_rate, betas=(0.9, 0.99), weight_decay=decay, fused=True)
        found: list[tuple[torch.optim.Optimizer, float]] = [(adamw, recipe.learning_rate)]
        if matrices:
            rate = recipe.muon_learning_rate
            muon = torch.optim.Muon(matrices, rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
            found.append((muon, rate))
        return found


def load_frozen_vae(config: MicroTrainingConfig) -> AutoencoderKL:
    from diffusers import AutoencoderKL

    folder = config.out_dir / "flux" / "vae"
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"{folder} holds no VAE; train it first: python -m trainers micro --model vae")
    return AutoencoderKL.from_pretrained(sound_weights(folder)).to(config.device).eval().requires_grad_(False)


def make_encoder(vae: AutoencoderKL, use_bf16: bool):
    """uint8 images (B, 32, 32, 3) -> normalised latent means (B, 4, 8, 8), float32."""
    import torch

    from inference.flux.latents import normalized, to_pixels

    @torch.no_grad()
    def encode(images) -> torch.Tensor:
        pixels = to_pixels(images).contiguous().to(vae.device)
        with autocast(vae.device.type, use_bf16):
            mean = vae.encode(pixels).latent_dist.mean.float()
        return normalized(mean, vae)

    return encode


def open_pool(config: MicroTrainingConfig, vae: AutoencoderKL) -> LatentPool:
    """The pool of this VAE's latents: another VAE, another pool."""
    from microworld.training.latent_pool import LatentPool

    digest = hashlib.sha256((config.out_dir / "flux" / "vae" / "diffusion_pytorch_model.safetensors").read_bytes())
    folder = config.work_dir / f"labelled-latents-{digest.hexdigest()[:8]}"
    return LatentPool(folder, make_encoder(vae, config.device == "cpu"), config.seed)


def score_pipeline(
    pipeline: FluxPipeline, per_tag: int, num_steps: int, sheet_path, true_cfg: float, guidance: float = 1.0
) -> dict[str, float]:
    """Fixed captions and seeds, scored by pixels; saves the images as a sheet, one line a tag."""
    import torch

    from microworld.training.flux_model import TEXT_LENGTHS
    from microworld.training.pixel_scorer import fixed_captions, save_sheet, score_images

    captions = fixed_captions(per_tag)
    images = []
    for i in range(0, len(captions), 60):
        batch = captions[i : i + 60]
        output = pipeline(
            prompt=[c.text for c in batch],
            negative_prompt=[""] * len(batch) if true_cfg > 1 else None,
            true_cfg_scale=true_cfg,
            guidance_scale=guidance,
            num_inference_steps=num_steps,
            height=32,
            width=32,
            max_sequence_length=TEXT_LENGTHS[0],  # holds every caption of the six tags
            generator=[torch.Generator().manual_seed(i + j) for j in range(len(batch))],
            output_type="np",
        )
        images += list((output.images * 255).round().astype("uint8"))
    save_sheet(images, sheet_path, columns=per_tag)
    return score_images(captions, images)


def train(config: MicroTrainingConfig, recipe: FluxRecipe | None = None) -> None:
    """Train for `config.minutes`; exports to `out_dir/flux` now and then, and at the end."""
    import numpy as np
    import torch
    import torch.nn.functional as F

    from inference.flux.latents import pack
    from microworld.training.flux_model import TEXT_LENGTHS, build_pipeline, save_pipeline
    from microworld.training.latent_pool import Tokenize
    from microworld.training.text_pretraining import pretrain_text

    recipe = recipe or FluxRecipe()
    prepare_process(config)
    vae = load_frozen_vae(config)
    pool = open_pool(config, vae)
    model = FluxModel(config.device, recipe)
    training = Training(
        config,
        "flux",
        model.modules,
        model.optimizers(recipe),
        ema_decay=recipe.ema_decay,
        warmup=recipe.warmup,
        decay=recipe.decay,
    )
    clock = training.clock
    if not training.resumed:
        modules = model.modules
        accuracy = pretrain_text(modules["t5"], modules["clip"], recipe.text_pretraining_s, config.seed)
        print(f"flux: text encoders pretrained, {accuracy:.1%} of nouns fully understood", flush=True)
        training.begin()
    while len(pool) < recipe.pool_start:
        pool.grow(recipe.pool_chunk)
    print(f"flux: {len(pool)} scenes in the pool", flush=True)
    rng = np.random.default_rng(training.seed(3))
    torch.manual_seed(config.seed * 1_000_003 + clock.num_steps)
    tokenize = Tokenize()
    empty = {n: [torch.from_numpy(i).long().to(config.device) for i in tokenize([""], n)] for n in TEXT_LENGTHS}

    def losses_of_batch(use_bf16: bool, forward=model.compiled, length: int | None = None):
        """The loss, and its two parts: of the velocity, and of what the tokens were said to show."""
        scenes = pool.draw(rng, recipe.batch_size, length)
        x0 = pack(torch.from_numpy(scenes.latents).float().to(config.device))
        t5_ids = torch.from_numpy(scenes.t5_ids).long().to(config.device)
        clip_ids = torch.from_numpy(scenes.clip_ids).long().to(config.device)
        empty_t5, empty_clip = empty[t5_ids.shape[1]]
        dropped = (torch.rand(len(x0), 1) < recipe.caption_dropout).to(config.device)
        t5_ids, clip_ids = torch.where(dropped, empty_t5, t5_ids), torch.where(dropped, empty_clip, clip_ids)
        noise = torch.randn_like(x0)
        t = torch.sigmoid(recipe.time_shift + torch.randn(len(x0), device=x0.device))
        # Any guidance may be asked for later; untaught, the embedding must do no harm at any value.
        guidance = 1 + 4 * torch.rand(len(x0), device=x0.device)
        noisy = torch.lerp(x0, noise, t[:, None, None])
        with autocast(config.device, use_bf16):
            velocity, shapes, colors = forward(noisy, t, guidance, t5_ids, clip_ids)
        velocity_loss = (velocity.float() - (noise - x0)).square().mean()
        numbers = [torch.from_numpy(n).long().to(config.device).flatten() for n in (scenes.shapes, scenes.colors)]
        logits = [shapes.float().flatten(0, 1), colors.float().flatten(0, 1)]
        align_loss = sum(F.cross_entropy(logit, number) for logit, number in zip(logits, numbers, strict=True)) / 2
        return velocity_loss + recipe.align_weight * align_loss, velocity_loss, align_loss

    def evaluate(export: bool) -> None:
        with training.ema.applied():
            pipeline = build_pipeline(vae, *(model.modules[name] for name in ("clip", "t5", "transformer")))
            if export:
                export_folder(lambda folder: save_pipeline(pipeline, folder), config.out_dir / "flux")
            sheet = config.work_dir / "sheets" / f"flux_{clock.spent_s / 60:05.1f}min.png"
            scores = score_pipeline(pipeline, recipe.score_per_tag, recipe.score_steps, sheet, recipe.score_true_cfg)
        clock.curve.append({"minutes": clock.spent_s / 60, "samples": clock.num_samples, "score": scores["mean"]})
        print("flux score  " + "  ".join(f"{name} {value:.2f}" for name, value in scores.items()), flush=True)
        clock.pause()

    use_bf16 = recipe.bf16
    if use_bf16 is None:  # measured eagerly: to compile both would take minutes
        use_bf16 = training.pick_bf16(lambda use_bf16: losses_of_batch(use_bf16, forward=model.forward)[0])
    for length in TEXT_LENGTHS:
        training.warm_up(lambda length=length: losses_of_batch(use_bf16, length=length)[0])
    while clock.running():
        loss, velocity_loss, align_loss = losses_of_batch(use_bf16)
        training.step(loss, recipe.batch_size, {"loss": velocity_loss.item(), "align": align_loss.item()})
        if len(pool) < recipe.pool_end and clock.due("pool", recipe.pool_every_s):
            pool.grow(recipe.pool_chunk)
        if clock.due("score", recipe.score_every_s):
            evaluate(export=clock.due("export", recipe.export_every_s))
    training.checkpoint()
    evaluate(export=True)
