"""What reflector and condenser have in common: a VLM learns to answer requests, as a LoRA or with all weights.

A lesson is a request and the answer that is wanted; the loss is the answer's mean cross-entropy. All weights of a large
model fit no one GPU: with several workers they lie in shards over them (FSDP2, `trainers.sharded`).
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from inference.interfaces import ChatRequest
from inference.sound_weights import sound_model
from schemas.errors import InputError
from trainers.checkpoint import exported
from trainers.loop import ALONE, LoopConfig, Rank
from trainers.optimizer import OptimizerConfig
from trainers.vlm_lora import add_lora, recompute_layers, restore_adapter, save_adapter

if TYPE_CHECKING:
    import torch

IGNORED = -100


@dataclass(frozen=True)
class Lesson:
    """A request and the answer that is learnt."""

    request: ChatRequest
    answer: str


class LearnerConfig(Protocol):
    """Which model learns, and how much of it."""

    @property
    def base_model(self) -> str: ...
    @property
    def full(self) -> bool: ...
    @property
    def rank(self) -> int: ...
    @property
    def device(self) -> str: ...


class LessonTrainingConfig(Protocol):
    """What a training of either trainer says."""

    @property
    def out(self) -> Path: ...
    @property
    def model(self) -> LearnerConfig: ...
    @property
    def start_from(self) -> str: ...
    @property
    def loop(self) -> LoopConfig: ...
    @property
    def optimizer(self) -> OptimizerConfig: ...
    @property
    def num_written(self) -> int: ...
    @property
    def bf16(self) -> bool: ...
    @property
    def recompute(self) -> bool: ...


def lesson_inputs(processor: Any, lessons: Sequence[Lesson]) -> tuple[dict[str, Any], torch.Tensor]:
    """Model inputs, padded to the right, and int64 labels (n, T): answers with their ends; the rest is ignored. Images:
    of all lessons as many."""
    import torch

    from inference.vlm.chat_inputs import answer_frame, chat_text, model_inputs

    tokenizer = processor.tokenizer
    tokenizer.padding_side = "right"
    lead, end = answer_frame(processor)
    asked = [chat_text(processor, lesson.request) for lesson in lessons]
    told = [f"{lead}{lesson.answer}{end}" for lesson in lessons]
    texts = [question + answer for question, answer in zip(asked, told, strict=True)]
    inputs = dict(model_inputs(processor, texts, [lesson.request.images for lesson in lessons]))
    labels = torch.full_like(inputs["input_ids"], IGNORED)
    added = set(tokenizer.get_added_vocab().values())
    for row, (question, text) in enumerate(zip(asked, texts, strict=True)):
        ids = inputs["input_ids"][row]
        last = int(inputs["attention_mask"][row].sum())
        start = last - _own_tokens(tokenizer, question, text)
        # What stands behind the token that ends the turn (a line break) is not for the model to write.
        while last > start and int(ids[last - 1]) not in added:
            last -= 1
        labels[row, start:last] = ids[start:last]
    return inputs, labels


def _own_tokens(tokenizer: Any, question: str, text: str) -> int:
    """How many of a text's tokens stand behind its question: those from the first on in which they differ. An image is
    one token in both."""
    before, whole = (tokenizer(part, add_special_tokens=False).input_ids for part in (question, text))
    same = next((i for i, (one, other) in enumerate(zip(before, whole, strict=False)) if one != other), len(before))
    return len(whole) - same


class LessonTrainable(ABC):
    """See `trainers.loop.Trainable`. A trainer says what its samples teach (`lessons_of`), which ones are held out, and
    which lesson of one is written out to be read (`shown`)."""

    name = "vlm"
    written = "answers"
    """First part of the names of the files of answers in `out/samples`."""

    def __init__(self, config: LessonTrainingConfig, ranks: Rank = ALONE) -> None:
        """Loads the base model. MissingWeightsError; InputError for what cannot be trained whole."""
        import torch

        from inference.model_store import resolve_model
        from inference.vlm.adapters import load_vlm

        torch.manual_seed(config.loop.seed)
        self.config, self._ranks = config, ranks
        base, self.processor = load_vlm(resolve_model(config.model.base_model), "float32")
        self.model: Any = base
        if config.model.full:
            if config.optimizer.name != "adamw" or config.loop.ema_decay:
                raise InputError(
                    f"all weights with {config.optimizer.name} and a moving average of {config.loop.ema_decay}",
                    field="--model.full",
                    expected="--optimizer.name adamw --loop.ema-decay 0",
                )
            if config.start_from:
                raise InputError(
                    "an adapter under a training of all weights",
                    field="--start-from",
                    expected="none: --model.base-model takes the folder of an adapter, too",
                )
            base.requires_grad_(True)
        else:
            self.model = add_lora(base, config.model.rank, task_type="CAUSAL_LM")
            if config.start_from:
                restore_adapter(self.model, sound_model(config.start_from))
        if config.recompute:
            recompute_layers(self.model)
        if self.is_sharded:
            from trainers.sharded import shard

            shard(self.model, config.model.device, config.bf16)
        else:
            self.model = self.model.to(config.model.device)

    @property
    def is_sharded(self) -> bool:
        """Each worker has a part of every weight, so all of them take part in whatever the model does."""
        return self.config.model.full and self._ranks.world_size > 1

    @property
    def module(self) -> torch.nn.Module:
        return self.model

    @abstractmethod
    def lessons_of(self, samples: Sequence[Any]) -> tuple[list[str], list[Lesson]]:
        """Subsets and lessons of those samples that teach something."""

    @abstractmethod
    def held_out(self) -> Sequence[Any]:
        """Samples to evaluate with, those that teach something; always the same."""

    @abstractmethod
    def shown(self, sample: Any) -> Lesson:
        """What is asked to be read by people, and what the dataset says."""

    def losses(self, samples: Sequence[Any]) -> Iterator[tuple[list[str], torch.Tensor]]:
        """Mean cross-entropy of each sample's answer; samples without one teach nothing."""
        subsets, lessons = self.lessons_of(samples)
        if lessons:
            yield subsets, self._losses(lessons)
        elif self.is_sharded:  # the other workers wait for this one's part of the weights, forwards and backwards
            yield [], self._losses([self.shown(samples[0])])[:0]

    def _losses(self, lessons: Sequence[Lesson]) -> torch.Tensor:
        import torch

        config = self.config
        inputs, labels = lesson_inputs(self.processor, lessons)
        inputs = {name: value.to(config.model.device) for name, value in inputs.items()}
        with torch.autocast(config.model.device.partition(":")[0], torch.bfloat16, enabled=config.bf16):
            logits = self.model(**inputs).logits
        wanted = labels[:, 1:].to(logits.device)
        each = torch.nn.functional.cross_entropy(
            logits[:, :-1].float().transpose(1, 2), wanted, ignore_index=IGNORED, reduction="none"
        )
        return each.sum(1) / (wanted != IGNORED).sum(1)

    def evaluate(self) -> dict[str, float]:
        """Loss on held-out samples, and the share of answers that are written word for word."""
        import torch

        samples, size = self.held_out(), self.config.loop.micro_batch
        if not samples:
            return {}
        shown = [self.shown(sample) for sample in samples[: self.config.num_written]]
        with self._not_training():
            with torch.no_grad():
                parts = [loss for i in range(0, len(samples), size) for _, loss in self.losses(samples[i : i + size])]
            written = self._write(shown)
        loss = float(torch.cat(parts).mean())
        same = sum(text == lesson.answer for text, lesson in zip(written, shown, strict=True))
        return {"held_out_loss": loss, "word_for_word": same / max(1, len(written)), "score": -loss}

    @contextmanager
    def _not_training(self) -> Iterator[None]:
        from trainers.sharded import gathered

        self.model.eval()
        with gathered(self.model) if self.is_sharded else nullcontext():
            yield
        self.model.train()

    def _write(self, lessons: Sequence[Lesson]) -> list[str]:
        from inference.vlm.in_process import InProcessVlm, InProcessVlmConfig

        vlm = InProcessVlm.of(
            self.model, self.processor, InProcessVlmConfig(batch_size=16, device=self.config.model.device)
        )
        return [answer.text for answer in vlm.answer([lesson.request for lesson in lessons])]

    def draw_samples(self, step: int) -> None:
        """`out/samples/..._STEP.jsonl`: what it writes of held-out samples, beside what the dataset says."""
        samples = list(self.held_out())[: self.config.num_written]
        if not samples:
            return
        shown = [self.shown(sample) for sample in samples]
        with self._not_training():
            written = self._write(shown)
        lines = [
            json.dumps({"prompt": sample.prompt, "written": text, "dataset": lesson.answer}, ensure_ascii=False)
            for sample, text, lesson in zip(samples, written, shown, strict=True)
        ]
        if self._ranks.is_first:
            folder = self.config.out / "samples"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{self.written}_{step:06d}.jsonl").write_text("".join(f"{line}\n" for line in lines))

    def export(self) -> None:
        """`out/<name>` in bfloat16, which every flag that takes a VLM loads: the adapter, or the whole model."""
        folder = self.config.out / self.name
        with exported(folder) if self._ranks.is_first else nullcontext(folder) as folder:
            self.export_to(folder)

    def export_to(self, folder: Path) -> None:
        """What is exported, to a folder of its own. All workers take part where the model is in parts."""
        base_model = self.config.model.base_model
        if not self.config.model.full:
            save_adapter(self.model, folder, base_model)
            return
        from trainers.sharded import save_whole

        save_whole(self.model, self.processor, folder, base_model, self.is_sharded, self._ranks)
