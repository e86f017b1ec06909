"""Train the micro VLM (a tiny Qwen2.5-VL) by plain supervised fine-tuning on questions and answers about the world.

First the vision tower learns to find objects (minutes that the checkpoint keeps), then the whole model answers: rows
of one image, or two, with many turns, each as if it were alone (`vlm_forward`). The result is an ordinary folder that
transformers and vLLM load, with averaged (EMA) weights, written now and then.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING

from inference.sound_weights import sound_weights
from microworld.family import micro_qwen
from microworld.training.made_ahead import MadeAhead
from microworld.training.training import Training, checkpoint_path
from microworld.training.training_loop import MicroTrainingConfig, autocast, export_folder, prepare_process, save_curve
from microworld.training.vision_pretraining import VisionPretraining, pretrain_vision
from microworld.training.vlm_cells import (
    NUM_CELLS,
    NUM_OUTPUTS,
    NUM_PLACES,
    cell_loss,
    looking_loss,
    naming_loss,
    places_of_names,
)
from microworld.training.vlm_data import DataConfig, SubjectSource, sample_rows, sample_texts
from microworld.training.vlm_evaluation import EvaluationConfig
from microworld.training.vlm_model import MERGE, VlmShape
from microworld.training.vlm_rows import OVERLAID, SIDE_BY_SIDE, SINGLE, TWO_IMAGES, RowPacker, RowShape
from trainers.checkpoint import load_checkpoint

if TYPE_CHECKING:
    import numpy as np
    import torch

    from microworld.training.vlm_evaluation import Share
    from microworld.training.vlm_forward import PackedRows


@dataclass(frozen=True)
class VlmRecipe:
    """For two cores and 70 minutes."""

    shape: VlmShape = field(default_factory=VlmShape)
    data: DataConfig = field(default_factory=DataConfig)
    vision: VisionPretraining = field(default_factory=VisionPretraining)
    tokens_per_step: int = 4608
    pair_share: float = 0.6  # of the steps: two images, by turns in one grid and apart
    overlay_share: float = 0.1  # of the steps: visual prompts
    cell_weight: float = 0.3  # of the loss on what each cell shows, which the vision tower goes on learning
    naming_weight: float = 0.1  # of the loss on where the things are that a text names
    looking_weight: float = 0.5  # of the loss on where the tokens of names look
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


class RowMaker:
    """Batches of packed rows of one shape a step, about `tokens_per_step` tokens each; batch n is always the same."""

    def __init__(self, recipe: VlmRecipe, packers: dict[RowShape, RowPacker], source: SubjectSource, seed: int) -> None:
        self._recipe, self._packers, self._source, self._seed = recipe, packers, source, seed

    def __call__(self, number: int, shape: RowShape | None = None) -> tuple[PackedRows, np.ndarray | None, int]:
        """Rows, what their cells show, and the number of turns in them."""
        import numpy as np

        rng = np.random.default_rng([self._seed, 81, number])
        shape = self._pick_shape(rng) if shape is None else shape
        size = max(1, self._recipe.tokens_per_step // shape.length)
        sampled = sample_rows(rng, self._source, shape, size)
        rows, kept = self._packers[shape].pack(sampled.images, sampled.turns)
        return rows, sampled.cells, sum(len(k) for k in kept)

    def _pick_shape(self, rng: np.random.Generator) -> RowShape:
        draw, recipe = rng.random(), self._recipe
        if draw < recipe.pair_share:
            return SIDE_BY_SIDE if rng.random() < 0.6 else TWO_IMAGES
        return OVERLAID if draw < recipe.pair_share + recipe.overlay_share else SINGLE


def gpu_recipe() -> VlmRecipe:
    """For one GPU and 4 minutes: batches eight times as large, and more of what is seldom asked."""
    return VlmRecipe(
        data=DataConfig(generated_share=0.35, concept_share=0.22),
        vision=VisionPretraining(seconds=30.0, batch_size=512, learning_rate=2e-3, muon_learning_rate=2e-3),
        tokens_per_step=8 * 4608,
        pair_share=0.5,
        overlay_share=0.2,
        learning_rate=2e-3,
        muon_learning_rate=1.8e-3,
        decay=0.4,
        ema_decay=0.997,
        compile=False,
        bf16=True,
        num_vae_images=8_000,
        num_generated_images=24_000,
        evaluate_every_s=60.0,
        export_every_s=60.0,
    )


def rows_to(rows: PackedRows, device: str) -> PackedRows:
    return (
        rows if device == "cpu" else replace(rows, **{f.name: getattr(rows, f.name).to(device) for f in fields(rows)})
    )


def build_optimizers(model: torch.nn.Module, recipe: VlmRecipe) -> list[tuple[torch.optim.Optimizer, float]]:
    """AdamW for all, or Muon for the matrices of the blocks and AdamW for the rest; with peak learning rates."""
    import torch

    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ("layers." in name or "blocks." in name)]
    chosen = {id(p) for p in matrices} if recipe.muon_learning_rate else set()
    rest = [p for p in model.parameters() if id(p) not in chosen]
    rate, decay = recipe.learning_rate, recipe.weight_decay
    adamw = torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.98), weight_decay=decay, fused=True)
    found: list[tuple[torch.optim.Optimizer, float]] = [(adamw, rate)]
    if chosen:
        muon_rate = recipe.muon_learning_rate
        muon = torch.optim.Muon(matrices, lr=muon_rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
        found.append((muon, muon_rate))
    return found


def train(config: MicroTrainingConfig, recipe: VlmRecipe | None = None) -> None:
    """Train for `config.minutes`; exports to `out_dir/vlm` now and then, and at the end."""
    import torch
    from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

    from inference.vlm.in_process import InProcessVlm
    from microworld.training.vlm_evaluation import evaluate_vlm
    from microworld.training.vlm_forward import PackedForward
    from microworld.training.vlm_images import open_pools
    from microworld.training.vlm_model import (
        build_processor,
        build_tokenizer,
        build_vlm,
        save_vlm,
        tokenizer_from_vocabulary,
        tokenizer_state,
    )

    recipe = recipe or (VlmRecipe() if config.device == "cpu" else gpu_recipe())
    prepare_process(config)
    state = load_checkpoint(checkpoint_path(config, "vlm"), config.device)
    exported = config.out_dir / "vlm" if config.from_exported and state is None else None
    if state:  # the vocabulary belongs to the weights, whatever the texts are by now
        tokenizer = tokenizer_from_vocabulary(state["tokenizer"]["vocabulary"], state["tokenizer"]["merges"])
    elif exported:
        tokenizer = AutoTokenizer.from_pretrained(exported)
        recipe = replace(
            recipe, learning_rate=recipe.learning_rate / 2, muon_learning_rate=recipe.muon_learning_rate / 2
        )
    else:
        tokenizer = build_tokenizer(sample_texts(0, recipe.vocabulary_rows))
        print(f"vlm: {len(tokenizer)} tokens", flush=True)
    vae_pool, generated_pool = open_pools(config, recipe.num_vae_images, recipe.num_generated_images)
    held_out = generated_pool.hold_out(recipe.held_out_generated) if generated_pool else []
    source = SubjectSource(recipe.data, vae_pool, generated_pool)
    make_rows = RowMaker(
        recipe, {s: RowPacker(tokenizer, s) for s in (SINGLE, SIDE_BY_SIDE, TWO_IMAGES, OVERLAID)}, source, config.seed
    )
    model = build_vlm(tokenizer, recipe.shape)
    if exported:
        trained = Qwen2_5_VLForConditionalGeneration.from_pretrained(sound_weights(exported), dtype=torch.float32)
        model.load_state_dict(trained.state_dict())
    heads = {
        name: torch.nn.Linear(recipe.shape.width, n) for name, n in (("cells", NUM_OUTPUTS), ("names", NUM_PLACES))
    }
    modules = torch.nn.ModuleDict({"vlm": model, **heads})
    modules.to(config.device)
    processor = build_processor(tokenizer)
    forward, plain = PackedForward(model, recipe.compile), PackedForward(model)
    training = Training(
        config,
        "vlm",
        modules,
        build_optimizers(modules, recipe),
        ema_decay=recipe.ema_decay,
        warmup=recipe.warmup,
        decay=recipe.decay,
        extra={"tokenizer": tokenizer_state(tokenizer)},
    )
    clock = training.clock

    def loss_of(
        rows: PackedRows, cells: np.ndarray | None, use_bf16: bool, run: PackedForward
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss, and for the curve: the answers' part, the share of tokens that come first, the names' part."""
        with autocast(config.device, use_bf16):
            found = run.answer_loss(rows := rows_to(rows, config.device))
            if cells is None or found.features is None:
                return found.loss, {"loss": found.loss, "token_accuracy": found.accuracy}
            seen, places = modules["cells"](found.features).float(), modules["names"](found.named)
        truth = torch.from_numpy(cells).to(seen)
        two_in_one = rows.patch_positions.shape[1] > (MERGE * NUM_CELLS) ** 2
        there = places_of_names(rows.names, truth)
        naming = naming_loss(places, there, two_in_one)
        looking = looking_loss(found.looks, there, rows.image_columns)
        loss = found.loss + recipe.cell_weight * cell_loss(seen, truth)[0]
        loss = loss + recipe.naming_weight * naming + recipe.looking_weight * looking
        return loss, {"loss": found.loss, "token_accuracy": found.accuracy, "naming": naming, "looking": looking}

    def evaluate(export: bool) -> None:
        with training.ema.applied():
            if export:
                export_folder(lambda folder: save_vlm(model, processor, folder), config.out_dir / "vlm")
            if not config.evaluate:
                return
            model.eval()
            vlm = InProcessVlm.of(model, build_processor(tokenizer), micro_qwen(device=config.device))
            figures: dict[str, Share] = evaluate_vlm(vlm, held_out, recipe.evaluation)
            model.train()
        values = {name.replace(" ", "_").replace("/", "_"): share.value for name, share in figures.items()}
        clock.curve.append({"minutes": clock.spent_s / 60, "samples": clock.num_samples, **values})
        print("vlm evaluation", *(f"  {name} {share}" for name, share in figures.items()), sep="\n", flush=True)
        save_curve(clock, config.work_dir)
        clock.pause()

    use_bf16 = recipe.bf16
    if use_bf16 is None:
        use_bf16 = training.pick_bf16(lambda use_bf16: loss_of(*make_rows(0, SINGLE)[:2], use_bf16, plain)[0])
    if not training.resumed and not exported:
        seeing = PackedForward(model, recipe.compile)
        seen = pretrain_vision(
            seeing, modules["cells"], source, recipe.vision, config.seed, use_bf16, config.data_workers
        )
        print(f"vlm: vision tower pretrained, {seen:.1%} of objects read fully right", flush=True)
        training.begin()
    for shape in (SINGLE, SIDE_BY_SIDE, TWO_IMAGES, OVERLAID) if recipe.compile else ():
        training.warm_up(lambda shape=shape: loss_of(*make_rows(0, shape)[:2], use_bf16, forward)[0])
    batches = MadeAhead(make_rows, config.data_workers, first=clock.num_steps)
    clock.pause()
    while clock.running():
        rows, cells, num_turns = batches.next()
        loss, metrics = loss_of(rows, cells, use_bf16, forward)
        training.step(loss, num_turns, {name: value.item() for name, value in metrics.items()})
        if clock.due("evaluation", recipe.evaluate_every_s):
            evaluate(export=clock.due("export", recipe.export_every_s))
    training.checkpoint()
    evaluate(export=True)
