"""Train the micro VLM (a tiny Qwen2.5-VL) by plain supervised fine-tuning on questions and answers about the world.

First the vision tower learns to find objects (minutes that the checkpoint keeps), then the whole model answers: rows
of one image, or two, with many turns, each as if it were alone (`vlm_forward`). The result is an ordinary folder that
transformers and vLLM load, with averaged (EMA) weights, written now and then.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING

from trainers.micro.training_loop import (
    Ema,
    MicroTrainingConfig,
    TrainingClock,
    autocast,
    bf16_is_faster,
    export_folder,
    learning_rate_factor,
    load_checkpoint,
    prepare_process,
    save_checkpoint,
    save_curve,
)
from trainers.micro.vision_pretraining import VisionPretraining, pretrain_vision
from trainers.micro.vlm_data import DataConfig, SubjectSource, sample_rows, sample_texts
from trainers.micro.vlm_evaluation import EvaluationConfig
from trainers.micro.vlm_model import VlmShape
from trainers.micro.vlm_rows import SIDE_BY_SIDE, SINGLE, TWO_IMAGES, RowPacker, RowShape

if TYPE_CHECKING:
    import numpy as np
    import torch

    from trainers.micro.vlm_evaluation import Share
    from trainers.micro.vlm_forward import PackedRows


@dataclass(frozen=True)
class VlmRecipe:
    """For two cores and half an hour."""

    shape: VlmShape = field(default_factory=VlmShape)
    data: DataConfig = field(default_factory=DataConfig)
    vision: VisionPretraining = field(default_factory=VisionPretraining)
    tokens_per_step: int = 4608
    pair_share: float = 0.35  # of the steps: two images, by turns in one grid and apart
    learning_rate: float = 1.5e-3
    muon_learning_rate: float = 1.2e-3  # of the matrices inside blocks, in AdamW's measure; 0: AdamW for all
    weight_decay: float = 0.01
    warmup: float = 0.02  # shares of the budget
    decay: float = 0.3
    ema_decay: float = 0.995
    compile: bool = True
    bf16: bool | None = None  # None: measure which is faster here
    vocabulary_rows: int = 1500  # conversations whose words make the vocabulary
    num_vae_images: int = 6_000
    num_generated_images: int = 4_000
    held_out_generated: int = 300  # of them, for evaluation alone
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    evaluate_every_s: float = 420.0
    export_every_s: float = 420.0


class RowStream:
    """Batches of packed rows of one shape a step, about `tokens_per_step` tokens each."""

    def __init__(self, recipe: VlmRecipe, packers: dict[RowShape, RowPacker], source: SubjectSource, seed: int) -> None:
        import numpy as np

        self._recipe, self._packers, self._source = recipe, packers, source
        self._rng: np.random.Generator = np.random.default_rng([seed, 81])

    def restart(self, seed: list[int]) -> None:
        import numpy as np

        self._rng = np.random.default_rng(seed)

    def next(self, shape: RowShape | None = None) -> tuple[PackedRows, int]:
        """Rows and the number of turns in them."""
        if shape is None:
            pair = self._rng.random() < self._recipe.pair_share
            shape = (SIDE_BY_SIDE if self._rng.random() < 0.6 else TWO_IMAGES) if pair else SINGLE
        size = max(1, self._recipe.tokens_per_step // shape.length)
        images, turns = sample_rows(self._rng, self._source, shape, size)
        rows, kept = self._packers[shape].pack(images, turns)
        return rows, sum(len(k) for k in kept)


def rows_to(rows: PackedRows, device: str) -> PackedRows:
    return (
        rows if device == "cpu" else replace(rows, **{f.name: getattr(rows, f.name).to(device) for f in fields(rows)})
    )


class Optimizers:
    """AdamW for all, or Muon for the matrices of the blocks and AdamW for the rest."""

    def __init__(self, model: torch.nn.Module, recipe: VlmRecipe) -> None:
        import torch

        matrices = [
            p for name, p in model.named_parameters() if p.ndim == 2 and ("layers." in name or "blocks." in name)
        ]
        chosen = {id(p) for p in matrices} if recipe.muon_learning_rate else set()
        rest = [p for p in model.parameters() if id(p) not in chosen]
        self.all: list[tuple[torch.optim.Optimizer, float]] = [
            (
                torch.optim.AdamW(
                    rest, lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay, fused=True
                ),
                recipe.learning_rate,
            )
        ]
        if chosen:
            muon = torch.optim.Muon(
                matrices,
                lr=recipe.muon_learning_rate,
                weight_decay=recipe.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
            self.all.append((muon, recipe.muon_learning_rate))

    def step(self, factor: float) -> None:
        for optimizer, learning_rate in self.all:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> list[dict]:
        return [optimizer.state_dict() for optimizer, _ in self.all]

    def restore(self, states: list[dict]) -> None:
        for (optimizer, _), state in zip(self.all, states, strict=True):
            optimizer.load_state_dict(state)


def train(config: MicroTrainingConfig, recipe: VlmRecipe | None = None) -> None:
    """Train for `config.minutes`; exports to `out_dir/vlm` now and then, and at the end."""
    import torch

    from inference.vlm.qwen import QwenVlm, QwenVlmConfig
    from trainers.micro.vlm_evaluation import evaluate_vlm
    from trainers.micro.vlm_forward import PackedForward
    from trainers.micro.vlm_images import open_pools
    from trainers.micro.vlm_model import (
        build_processor,
        build_tokenizer,
        build_vlm,
        save_vlm,
        tokenizer_from_vocabulary,
        tokenizer_state,
    )

    recipe = recipe or VlmRecipe()
    prepare_process(config)
    path = config.work_dir / "vlm.pt"
    state = load_checkpoint(path, config.device)
    if state:  # the vocabulary belongs to the weights, whatever the texts are by now
        tokenizer = tokenizer_from_vocabulary(state["tokenizer"]["vocabulary"], state["tokenizer"]["merges"])
    else:
        tokenizer = build_tokenizer(sample_texts(0, recipe.vocabulary_rows))
        print(f"vlm: {len(tokenizer)} tokens", flush=True)
    vae_pool, generated_pool = open_pools(config, recipe.num_vae_images, recipe.num_generated_images)
    held_out = generated_pool.hold_out(recipe.held_out_generated) if generated_pool else []
    source = SubjectSource(recipe.data, vae_pool, generated_pool)
    stream = RowStream(
        recipe, {s: RowPacker(tokenizer, s) for s in (SINGLE, SIDE_BY_SIDE, TWO_IMAGES)}, source, config.seed
    )
    model = build_vlm(tokenizer, recipe.shape).to(config.device)  # pyright: ignore[reportArgumentType]
    processor = build_processor(tokenizer)
    forward, plain = PackedForward(model, recipe.compile), PackedForward(model)
    optimizers = Optimizers(model, recipe)
    clock = TrainingClock(config.minutes, "vlm")

    def checkpoint() -> None:
        values = {
            "tokenizer": tokenizer_state(tokenizer),
            "model": model.state_dict(),
            "optimizers": optimizers.state(),
            "ema": ema.state(),
            "clock": clock.state(),
        }
        save_checkpoint(path, values)
        save_curve(clock, config.work_dir)

    def timed_step(use_bf16: bool) -> None:
        rows = rows_to(stream.next(SINGLE)[0], config.device)
        with autocast(config.device, use_bf16):
            loss, _ = plain.answer_loss(rows)
        loss.backward()
        model.zero_grad(set_to_none=True)

    def evaluate(export: bool) -> None:
        with ema.applied():
            if export:
                export_folder(lambda folder: save_vlm(model, processor, folder), config.out_dir / "vlm")
            model.eval()
            vlm = QwenVlm.of(model, build_processor(tokenizer), QwenVlmConfig(device=config.device))
            figures: dict[str, Share] = evaluate_vlm(vlm, held_out, recipe.evaluation)
            model.train()
        values = {name.replace(" ", "_").replace("/", "_"): share.value for name, share in figures.items()}
        clock.curve.append({"minutes": clock.spent_s / 60, "samples": clock.num_samples, **values})
        print("vlm evaluation", *(f"  {name} {share}" for name, share in figures.items()), sep="\n", flush=True)
        save_curve(clock, config.work_dir)
        clock.pause()

    if state:
        model.load_state_dict(state["model"])
        optimizers.restore(state["optimizers"])
        clock.restore(state["clock"])
    use_bf16 = recipe.bf16 if recipe.bf16 is not None else clock.running() and bf16_is_faster(timed_step)
    if not state:
        seen = pretrain_vision(PackedForward(model, recipe.compile), source, recipe.vision, config.seed, use_bf16)
        print(f"vlm: vision tower pretrained, {seen:.1%} of objects read fully right", flush=True)
    ema = Ema(model, recipe.ema_decay)
    if state:
        ema.restore(state["ema"])
    else:
        checkpoint()
    stream.restart([config.seed, 82, clock.num_steps])
    if clock.running() and recipe.compile:
        for shape in (SINGLE, SIDE_BY_SIDE, TWO_IMAGES):  # compiles, which is no training time
            with autocast(config.device, use_bf16):
                forward.answer_loss(rows_to(stream.next(shape)[0], config.device))[0].backward()
            model.zero_grad(set_to_none=True)
    clock.pause()
    while clock.running():
        rows, num_turns = stream.next()
        with autocast(config.device, use_bf16):
            loss, accuracy = forward.answer_loss(rows_to(rows, config.device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizers.step(learning_rate_factor(clock.share(), recipe.warmup, recipe.decay))
        ema.update()
        clock.step(num_turns, {"loss": loss.item(), "token_accuracy": accuracy.item()})
        if clock.due("checkpoint", every_s=120):
            checkpoint()
            clock.pause()
        if clock.due("evaluation", recipe.evaluate_every_s):
            evaluate(export=clock.due("export", recipe.export_every_s))
    checkpoint()
    evaluate(export=True)
