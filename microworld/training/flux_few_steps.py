# pyright: reportArgumentType=false
# diffusers' decorated methods have another signature.
"""A schnell-like adapter: a LoRA with which the micro FLUX draws in one to four steps.

The guided model draws an image from a noise in many steps; the adapter learns the straight line between the two, at
the times that a schedule of one to four steps visits (rectified flow's second stage, Liu et al. 2022).
Saved as `weights/flux_few_steps/pytorch_lora_weights.safetensors`, which `FluxPipeline.load_lora_weights` reads.
"""

from __future__ import annotations

from dataclasses import dataclass

from microworld.training.flux import score_pipeline
from microworld.training.flux_guidance import load_pipeline, velocity
from microworld.training.training import Training
from microworld.training.training_loop import MicroTrainingConfig, autocast, export_folder, prepare_process
from microworld.training.vlm_images import folder_digest
from schemas.configuration import content_key
from trainers.checkpoint import load_checkpoint, save_checkpoint

SCHEDULES = (1, 2, 3, 4)
"""Numbers of steps that the adapter is made for."""
LORA_TARGETS = [
    "attn.to_q",
    "attn.to_k",
    "attn.to_v",
    "attn.to_out.0",
    "ff.net.0.proj",
    "ff.net.2",
    "proj_mlp",
    "proj_out",
]


@dataclass(frozen=True)
class FewStepsRecipe:
    rank: int = 32
    batch_size: int = 64
    learning_rate: float = 1e-3
    ema_decay: float = 0.995
    teacher_steps: int = 8
    guidance: float = 3.0
    num_lines: int = 10_000  # (noise, image) pairs that the teacher draws first
    compile: bool = True
    bf16: bool = True
    score_per_tag: int = 20


def gpu_recipe() -> FewStepsRecipe:
    """For one GPU and a minute or two."""
    return FewStepsRecipe(batch_size=512, learning_rate=1.5e-3, num_lines=60_000, compile=False)


def train(config: MicroTrainingConfig, recipe: FewStepsRecipe | None = None) -> None:
    """Reads `out_dir/flux`, trains for `config.minutes` after the teacher has drawn, writes `flux_few_steps`."""
    import numpy as np
    import torch
    from diffusers import FluxPipeline
    from peft import LoraConfig, get_peft_model_state_dict

    from inference.flux.latents import image_ids
    from inference.flux.plain_attention import use_plain_attention
    from microworld.training.flux_model import TEXT_LENGTHS
    from microworld.training.latent_pool import Tokenize, sample_training_text

    recipe = recipe or (FewStepsRecipe() if config.device == "cpu" else gpu_recipe())
    prepare_process(config)
    pipeline = load_pipeline(config.out_dir / "flux", config.device)
    # Faster on the CPU; on an H100 (PyTorch 2.11) a step with fused kernels ended in an illegal memory access.
    use_plain_attention(pipeline.transformer)
    t5, clip = (m.requires_grad_(False).eval() for m in (pipeline.text_encoder_2, pipeline.text_encoder))
    student = pipeline.transformer.requires_grad_(False)
    tokenize, img_ids = Tokenize(), image_ids(4, 4).to(config.device)
    rng = np.random.default_rng([config.seed, 41])
    run = torch.compile(velocity, dynamic=False) if recipe.compile else velocity

    def embed(texts: list[str], length: int) -> tuple[torch.Tensor, torch.Tensor]:
        ids = [torch.from_numpy(i).long().to(config.device) for i in tokenize(texts, length)]
        with torch.no_grad():
            return t5(input_ids=ids[0])[0], clip(input_ids=ids[1]).pooler_output

    def predict(x: torch.Tensor, t: torch.Tensor, texts: list[str], length: int) -> torch.Tensor:
        guidance = torch.full((len(x),), recipe.guidance, device=x.device)
        txt_ids = torch.zeros(length, 3, device=x.device)
        with autocast(config.device, recipe.bf16):
            return run(student, x, t, guidance, *embed(texts, length), img_ids, txt_ids).float()

    def draw_lines() -> dict[int, tuple[list[str], torch.Tensor, torch.Tensor]]:
        """By text length: texts, noises and the images that the teacher draws from them, (N, 16, 16) packed latents."""
        texts = [sample_training_text(rng)[0] for _ in range(recipe.num_lines)]
        bucket = np.searchsorted(TEXT_LENGTHS, tokenize.num_tokens(texts))
        lines = {}
        for i, length in enumerate(TEXT_LENGTHS):
            chosen = [text for text, b in zip(texts, bucket, strict=True) if b == i]
            chosen = chosen[: len(chosen) // recipe.batch_size * recipe.batch_size]
            if not chosen:
                continue
            noises, ends = [], []
            for start in range(0, len(chosen), recipe.batch_size):
                x = noise = torch.randn(recipe.batch_size, 16, 16, device=config.device)
                for step in range(recipe.teacher_steps):
                    t = torch.full((len(x),), 1 - step / recipe.teacher_steps, device=x.device)
                    with torch.no_grad():
                        x = x - predict(x, t, chosen[start : start + len(x)], length) / recipe.teacher_steps
                noises.append(noise)
                ends.append(x)
            lines[length] = (chosen, torch.cat(noises), torch.cat(ends))
            print(f"flux-few-steps: {len(chosen)} lines with texts of {length} tokens", flush=True)
        return lines

    drawn_how = (config.seed, recipe.num_lines, recipe.batch_size, recipe.teacher_steps, recipe.guidance)
    key = content_key(folder_digest(config.out_dir / "flux"), drawn_how)
    lines_path = config.work_dir / f"flux_few_steps_lines-{key}.pt"
    lines = load_checkpoint(lines_path, config.device)
    if lines is None:
        lines = draw_lines()
        save_checkpoint(lines_path, lines)

    student.add_adapter(
        LoraConfig(r=recipe.rank, lora_alpha=recipe.rank, init_lora_weights="gaussian", target_modules=LORA_TARGETS)
    )
    parameters = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, recipe.learning_rate, betas=(0.9, 0.99), fused=True)
    training = Training(
        config, "flux-few-steps", student, [(optimizer, recipe.learning_rate)], ema_decay=recipe.ema_decay, warmup=0.02
    )
    clock = training.clock
    lengths = [int(length) for length in lines]
    share = np.array([len(texts) for texts, _, _ in lines.values()], float)
    times = torch.tensor([1 - k / n for n in SCHEDULES for k in range(n)])

    def loss_of_batch(length: int | None = None) -> torch.Tensor:
        length = length or lengths[rng.choice(len(lengths), p=share / share.sum())]
        texts, noises, ends = lines[length]
        picks = rng.integers(len(texts), size=recipe.batch_size)
        x0, noise = ends[picks], noises[picks]
        t = times[torch.randint(len(times), (len(x0),))].to(x0.device)
        x = torch.lerp(x0, noise, t[:, None, None])
        return (predict(x, t, [texts[i] for i in picks], length) - (noise - x0)).square().mean()

    for length in lengths if recipe.compile else ():
        training.warm_up(lambda length=length: loss_of_batch(length))
    while clock.running():
        loss = loss_of_batch()
        training.step(loss, recipe.batch_size, {"loss": loss.item()})
    training.checkpoint()
    with training.ema.applied(), torch.no_grad():
        student.eval()
        layers = {k: v.to(torch.bfloat16).contiguous() for k, v in get_peft_model_state_dict(student).items()}
        export_folder(
            lambda folder: FluxPipeline.save_lora_weights(folder, transformer_lora_layers=layers),
            config.out_dir / "flux_few_steps",
        )
        for num_steps in (1, 2, 4):
            sheet = config.work_dir / "sheets" / f"flux_{num_steps}_steps.png"
            scores = score_pipeline(pipeline, recipe.score_per_tag, num_steps, sheet, 1.0, recipe.guidance)
            print(f"{num_steps} steps: " + "  ".join(f"{k} {v:.2f}" for k, v in scores.items()), flush=True)
