"""The reflector's training: supervised fine-tuning of a Qwen2.5-VL on the reflections of a dataset.

ReflectionFlow §3.3: the flawed image and the prompt in, the reflection out. Where a triplet came with its chain of
thought, a share of the samples is the comparison that it was written in: both images in, the whole answer out. Another
share is the good image alone, with the answer that nothing is wrong: a reflector that has never seen a right image
finds fault with every one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.flux.corrector import MIN_REFLECTION_CHARS
from inference.interfaces import ChatRequest
from inference.reflection_text import nothing_to_correct
from inference.search import NOTHING_WRONG
from inference.vlm.grid import image_grid
from inference.vlm.prompts import fill_prompt, load_prompt
from inference.vlm.reflector_words import write_words
from schemas.configuration import resumable_field, stable_seed
from trainers.comparison_shards import ComparisonMembers
from trainers.loop import ALONE, LoopConfig, OptimizerConfig, Rank, TrainingLoop
from trainers.shard_dataset import EVEN_MIX, MixSchedule, PairDataset, TrainingOrder, Triplet, open_data
from trainers.shard_index import ShardIndex
from trainers.vlm_lora import LORA_TARGETS, recompute_layers, save_adapter

if TYPE_CHECKING:
    import numpy as np
    import torch

EVALUATION_SEED = 7_000_021
RIGHT_SUBSETS = frozenset({"rule", "editing"})
"""Whose good images passed a check, or are described by their prompt; those of others only have the better reward."""
IGNORED = -100
END_OF_TURN = "<|im_end|>\n"


@dataclass(frozen=True)
class ReflectorConfig:
    """Which model, and in which words it is asked."""

    base_model: str = "Qwen/Qwen2.5-VL-7B-Instruct"
    """Model zoo name, local folder or hub id."""
    template: str = "reflect"
    """Template with {prompt}, for the flawed image alone."""
    compare_template: str = "compare"
    """Template with {prompt}, for both images."""
    cot_share: float = 0.25
    """Share of the samples with a chain of thought that are comparisons."""
    right_share: float = 0.1
    """Share of the samples of the subsets rule and editing, whose good images are right and not only better, that show
    the good image alone; the answer is "The image is right.\""""
    image_px: int = 768
    """Images are shown with at most this longer side in a comparison; 0: as they are."""
    rank: int = 64
    """Of the LoRA on the language model; its alpha is as large."""
    device: str = resumable_field("cpu")
    """Where it computes: cpu, cuda, cuda:1."""


@dataclass(frozen=True)
class ReflectorTrainingConfig:
    """One training. Not the paper's: it fine-tunes all of the 7B model (learning rate 1e-6, 45,000 steps;
    ReflectionFlow §4.1), of which weights, gradients and moments take 124 GiB in float32, and the loop keeps them whole
    on each GPU. This is a LoRA on the language model, with hyperparameters common for one."""

    data: str = ""
    """Run folder, folder or glob of shards, local or s3://, or a dataset in the hub cache (`diffusion-cot/GenRef-wds`,
    `diffusion-cot/GenRef-CoT`)."""
    comparisons: ComparisonMembers = field(default_factory=ComparisonMembers)
    out: Path = resumable_field(Path("runs/reflector"))
    """Checkpoints, curves and reflections to read; the reflector itself in `out/reflector`."""
    model: ReflectorConfig = field(default_factory=ReflectorConfig)
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=5000, batch_size=32, micro_batch=2))
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(
            "adamw", 1e-4, warmup_steps=150, decay_steps=5000, max_gradient_norm=1.0
        )
    )
    mix: MixSchedule = field(default_factory=lambda: EVEN_MIX)
    held_out_share: float = 0.05
    """Share of the triplets that are kept for evaluation."""
    num_evaluated: int = resumable_field(128)
    """Held-out triplets that each evaluation looks at."""
    num_written: int = resumable_field(32)
    """Held-out reflections that are written out at each evaluation, to be read (`out/samples`)."""
    bf16: bool = resumable_field(True)
    """Forward passes in bfloat16 (autocast); weights stay in float32."""
    recompute: bool = resumable_field(False)
    """Gradient checkpointing: layers are computed again in the backward pass; half more time, far less memory."""


@dataclass(frozen=True)
class Lesson:
    """A request and the answer that is learnt."""

    request: ChatRequest
    answer: str


def teaches(triplet: Triplet) -> bool:
    """True where there is a reflection to learn."""
    return len(triplet.reflection.strip()) >= MIN_REFLECTION_CHARS


def lesson_of(triplet: Triplet, config: ReflectorConfig, seed: int) -> Lesson:
    """What triplet n teaches: always the same of the same n."""
    cot = triplet.cot
    if triplet.subset in RIGHT_SUBSETS and stable_seed(seed, "right", triplet.number) / 2**63 < config.right_share:
        return Lesson(asked_of(triplet, triplet.good, config), NOTHING_WRONG)
    if cot and stable_seed(seed, "cot", triplet.number) / 2**63 < config.cot_share:
        both = (triplet.good, triplet.bad) if cot["good_side"] == "left" else (triplet.bad, triplet.good)
        text = fill_prompt(load_prompt(config.compare_template), prompt=triplet.prompt)
        answer = {"Analysis": cot["analysis"], "Result": cot["good_side"], "Instructions": cot["instruction"]}
        return Lesson(ChatRequest(text, image_grid(both, config.image_px)), json.dumps(answer, ensure_ascii=False))
    return Lesson(asked_of(triplet, triplet.bad, config), triplet.reflection)


def asked_of(triplet: Triplet, image: np.ndarray, config: ReflectorConfig) -> ChatRequest:
    """The question about one image, as a search asks it."""
    return ChatRequest(fill_prompt(load_prompt(config.template), prompt=triplet.prompt), (image,))


def lesson_inputs(processor: Any, lessons: Sequence[Lesson]) -> tuple[dict[str, Any], torch.Tensor]:
    """Model inputs, padded to the right, and int64 labels (n, T): answers with their ends; the rest is ignored."""
    import torch

    from inference.vlm.qwen import chat_messages

    processor.tokenizer.padding_side = "right"
    answers = [lesson.answer + END_OF_TURN for lesson in lessons]
    texts = [
        processor.apply_chat_template(chat_messages(lesson.request), tokenize=False, add_generation_prompt=True)
        + answer
        for lesson, answer in zip(lessons, answers, strict=True)
    ]
    images = [image for lesson in lessons for image in lesson.request.images]
    inputs = dict(processor(text=texts, images=images, padding=True, return_tensors="pt"))
    labels = torch.full_like(inputs["input_ids"], IGNORED)
    ends = inputs["attention_mask"].sum(1).tolist()
    for row, (answer, end) in enumerate(zip(answers, ends, strict=True)):
        # The template ends in a line break, so that an answer's tokens are its own.
        start = end - len(processor.tokenizer(answer, add_special_tokens=False).input_ids)
        labels[row, start : end - 1] = inputs["input_ids"][row, start : end - 1]  # the last is the line break
    return inputs, labels


class ReflectorTrainable:
    """See `trainers.loop.Trainable`."""

    name = "reflector"

    def __init__(self, config: ReflectorTrainingConfig, held_out: ShardIndex) -> None:
        """Loads the base model. MissingWeightsError."""
        import torch
        from peft import LoraConfig, get_peft_model

        from inference.model_store import resolve_model
        from inference.vlm.adapters import load_qwen

        torch.manual_seed(config.loop.seed)
        self.config, self._held_out = config, held_out
        base, self.processor = load_qwen(resolve_model(config.model.base_model), "float32")
        base.requires_grad_(False)
        rank = config.model.rank
        lora = LoraConfig(r=rank, lora_alpha=rank, target_modules=LORA_TARGETS, task_type="CAUSAL_LM")
        self.model: Any = get_peft_model(base, lora).to(config.model.device)
        if config.recompute:
            recompute_layers(self.model)

    @property
    def module(self) -> torch.nn.Module:
        return self.model

    def losses(self, samples: Sequence[Triplet]) -> Iterator[tuple[list[str], torch.Tensor]]:
        """Mean cross-entropy of each triplet's answer; triplets without a reflection teach nothing."""
        import torch

        config = self.config
        triplets = [t for t in samples if teaches(t)]
        if not triplets:
            return
        lessons = [lesson_of(t, config.model, config.loop.seed) for t in triplets]
        inputs, labels = lesson_inputs(self.processor, lessons)
        inputs = {name: value.to(config.model.device) for name, value in inputs.items()}
        with torch.autocast(config.model.device, torch.bfloat16, enabled=config.bf16):
            logits = self.model(**inputs).logits
        wanted = labels[:, 1:].to(logits.device)
        each = torch.nn.functional.cross_entropy(
            logits[:, :-1].float().transpose(1, 2), wanted, ignore_index=IGNORED, reduction="none"
        )
        yield [t.subset for t in triplets], each.sum(1) / (wanted != IGNORED).sum(1)

    def _held_out_triplets(self) -> list[Triplet]:
        """Those with a reflection, of the first `num_evaluated`."""
        if not len(self._held_out):
            return []
        dataset = PairDataset(TrainingOrder(self._held_out, EVEN_MIX, 1, EVALUATION_SEED))
        triplets = (dataset[n] for n in range(min(self.config.num_evaluated, 4 * len(self._held_out))))
        return [t for t in triplets if teaches(t)]

    def evaluate(self) -> dict[str, float]:
        """Loss on held-out triplets, the share of reflections that are written word for word, and of right images the
        share of which it says that nothing is to be corrected."""
        import torch

        triplets, size = self._held_out_triplets(), self.config.loop.micro_batch
        if not triplets:
            return {}
        self.model.eval()
        with torch.no_grad():
            parts = [loss for i in range(0, len(triplets), size) for _, loss in self.losses(triplets[i : i + size])]
        loss = float(torch.cat(parts).mean())
        triplets = triplets[: self.config.num_written]
        right = [(t, t.good) for t in triplets if t.subset in RIGHT_SUBSETS]
        written = self._write([*((t, t.bad) for t in triplets), *right])
        self.model.train()
        same = sum(text == t.reflection for text, t in zip(written, triplets, strict=False))
        left_alone = sum(map(nothing_to_correct, written[len(triplets) :]))
        return {
            "held_out_loss": loss,
            "word_for_word": same / max(1, len(triplets)),
            "right_left_alone": left_alone / max(1, len(right)),
            "score": -loss,
        }

    def _write(self, shown: Sequence[tuple[Triplet, np.ndarray]]) -> list[str]:
        """What it says of an image of each triplet."""
        from inference.vlm.qwen import QwenVlm, QwenVlmConfig

        config = self.config.model
        vlm = QwenVlm.of(self.model, self.processor, QwenVlmConfig(batch_size=16, device=config.device))
        return [answer.text for answer in vlm.answer([asked_of(t, image, config) for t, image in shown])]

    def draw_samples(self, step: int) -> None:
        """`out/samples/reflections_STEP.jsonl`: what it writes of held-out images, beside what the dataset says."""
        triplets = self._held_out_triplets()[: self.config.num_written]
        if not triplets:
            return
        self.model.eval()
        lines = [
            json.dumps({"prompt": t.prompt, "written": text, "dataset": t.reflection}, ensure_ascii=False)
            for t, text in zip(triplets, self._write([(t, t.bad) for t in triplets]), strict=True)
        ]
        self.model.train()
        folder = self.config.out / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"reflections_{step:06d}.jsonl").write_text("".join(f"{line}\n" for line in lines))

    def export(self) -> None:
        """`out/reflector`: the adapter in bfloat16, which `--reflect.reflector` and `--vlm.model` load, and the words
        that it is to be asked in."""
        folder, config = self.config.out / "reflector", self.config.model
        save_adapter(self.model, folder, config.base_model)
        write_words(folder, load_prompt(config.template))


def open_training(config: ReflectorTrainingConfig, rank: Rank = ALONE) -> TrainingLoop:
    """Opens the shards, loads the base model and the newest checkpoint. InputError for what cannot be."""
    config.loop.check(rank.world_size)
    order, held_out = open_data(
        config.data,
        config.out,
        config.held_out_share,
        config.mix,
        config.loop.batch_size,
        config.loop.seed,
        config.comparisons,
    )
    trainable = ReflectorTrainable(config, held_out)
    return TrainingLoop(trainable, order, config.loop, config.optimizer, config.out, rank, config.model.device)
