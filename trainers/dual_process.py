"""Dual-process distillation: the answers of a frozen VLM teach a LoRA of the generator (Dual-Process Image Generation).

Each step: noise of some seeds, denoised without a gradient to a random step; one step with a gradient to the clean
estimate; decoded; the VLM's loss on the wanted answers, sent back to the LoRA. No image is needed but those that the
generator draws itself, and afterwards no VLM either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from inference.dual.concept import Concept
from inference.model_store import model_digest, resolve_model
from schemas.configuration import content_key
from schemas.errors import WorkFailedError
from trainers.checkpoint import exported
from trainers.concept_card import drawing_command, write_card
from trainers.concept_training import ConceptTraining
from trainers.denoiser import Denoiser, add_lora, draw, remove_lora
from trainers.distilled import Distilled, Evaluated, Point
from trainers.dual_process_config import DualProcessConfig, same_model
from trainers.kept_prompts import KeptPrompts
from trainers.referee import Referee, mean_answers
from trainers.vqa_loss import VqaTeacher, check_kind


class NotConvergedError(WorkFailedError):
    """The VLM does not give the wanted answers about the taught generator's images. Its LoRA is kept all the same.
    distilled: what came of it."""

    def __init__(self, message: str, distilled: Distilled) -> None:
        super().__init__(message)
        self.distilled = distilled

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.distilled)  # to another process, as a pool or Ray passes it on


class FooledError(NotConvergedError):
    """The VLM gives them, and the referee denies them. The LoRA of the last look at which it did not is kept."""


class DualProcess:
    """Generator and teacher, loaded once; each concept is learnt from the generator as it was."""

    def __init__(
        self,
        config: DualProcessConfig,
        denoiser: Denoiser | None = None,
        teacher: VqaTeacher | None = None,
        drawing_flags: str = "",
    ) -> None:
        """Loads what is not given. drawing_flags: of the command that draws with a LoRA, for its card.
        MissingWeightsError; InputError for a teacher or referee of another kind, before anything is loaded, or for a
        referee with the teacher's weights."""
        self.config, self._drawing_flags = config, drawing_flags
        check_vlms(config)
        self.denoiser = denoiser or config.generator.open()
        self.teacher = teacher or VqaTeacher(config.teacher)
        self._referee = VqaTeacher(config.referee.asked_as(config.teacher)) if config.referee else None
        self._models = config.key({name: model_digest(name) for name in config.models}, type(self.denoiser).__name__)

    @cached_property
    def kept(self) -> KeptPrompts | None:
        """The same for all concepts; made before the first one's LoRA is."""
        config = self.config
        seeds = range(config.first_seed, config.first_seed + config.keep_seeds)
        return KeptPrompts(self.denoiser, config.keep_prompts, seeds) if config.keep_prompts else None

    def key_of(self, concept: Concept) -> str:
        """Changes with everything that changes the LoRA: settings, models, the concept's file and pictures."""
        is_kept = any(one.prompt in self.config.keep_prompts for one in concept.taught)  # held where it was, once
        return content_key(self._models, concept.digest, *(["not itself"] if is_kept else []))

    def distill(
        self,
        concept: Concept,
        out: Path,
        on_step: Callable[[Point], None] = lambda point: None,
        while_taught: Callable[[], None] = lambda: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Distilled:
        """Learn a concept in the folder `out`, from its newest checkpoint, and write LoRA, curve, grid and card there.

        while_taught: called when it is learnt, before the generator is as it was again: to draw more with it.

        stop: leave it with a checkpoint after the step at hand. InputError where the folder holds another concept's
        checkpoints, or the same of other settings; WorkFailedError for a loss that is no number; StoppedError;
        NotConvergedError, after everything is written.
        """
        config, network = self.config, self.denoiser.network
        with self._text_encoders():
            texts = [self.denoiser.encode(one.prompt) for one in concept.taught]
            _ = self.kept  # recorded now, of the generator as it was
        parameters = add_lora(network, config.rank, config.rank * config.alpha_per_rank, config.targets, config.seed)
        if config.gradient_checkpointing:
            network.enable_gradient_checkpointing()  # pyright: ignore[reportCallIssue]
        if config.vae_checkpointing:
            self.denoiser.vae.enable_gradient_checkpointing()  # pyright: ignore[reportCallIssue]
        try:
            before = self._evaluate_all(concept, texts)
            training = ConceptTraining(self, concept, texts, parameters, out)
            training.look(before[0].images)
            for point in training.run(stop):
                on_step(point)
            after = self._evaluate_all(concept, texts)
            training.look(after[0].images, is_last=True)
            looks, fooled = training.looks, training.fooled()
            if fooled is not None:
                fooled = replace(fooled, images=after[0].images)
                training.take_back()
                after = self._evaluate_all(concept, texts)
            why_not = fooled.why if fooled else training.why_not(before, after)
            curve, seconds = tuple(training.curve), training.seconds
            key, also = self.key_of(concept), tuple(zip(before[1:], after[1:], strict=True))
            distilled = Distilled(concept, key, curve, before[0], after[0], why_not, seconds, looks, fooled, also)
            with exported(out) as folder:
                self.denoiser.save_lora(folder)
                while_taught()
                drawn_by = config.generator.drawn_by
                command = drawing_command(concept.prompt, self._drawing_flags, drawn_by, out)
                write_card(folder, distilled, config, command)
        finally:
            remove_lora(network)
        if fooled:
            raise FooledError(
                f"concept {concept.name!r}: {why_not}\n"
                f"  kept is the LoRA of step {fooled.kept_step}, when the two had not parted; see {out}; one more "
                f"question about what must be there may help",
                distilled,
            )
        if why_not:
            raise NotConvergedError(
                f"concept {concept.name!r} is not learnt: after {len(curve)} steps {why_not}\n"
                f"  see {out}; more steps, another learning rate or another question may help",
                distilled,
            )
        return distilled

    @contextmanager
    def _text_encoders(self) -> Iterator[None]:
        """Inside, prompts are encoded."""
        if self.config.text_encoders_wait:
            self.denoiser.text_encoders_to(self.config.generator.device)
        yield
        if self.config.text_encoders_wait:
            self.denoiser.text_encoders_to("cpu")

    def evaluate(self, concept: Concept, text: Any) -> Evaluated:
        """Finished images of the evaluation seeds, and how probable the VLM finds the wanted answers about them."""
        drawn = self.drawn(text, self.config.num_evaluated)
        return Evaluated(drawn, mean_answers(self.teacher, drawn, concept.questions, self.pass_size))

    def _evaluate_all(self, concept: Concept, texts: Sequence[Any]) -> list[Evaluated]:
        """Of each prompt that is taught."""
        return [self.evaluate(one, text) for one, text in zip(concept.taught, texts, strict=True)]

    def drawn(self, text: Any, count: int) -> np.ndarray:
        """Finished images of the first evaluation seeds, uint8 (count, H, W, 3)."""
        first, size = self.config.evaluation_seed, self.pass_size
        seeds = range(first, first + count)
        parts = [draw(self.denoiser, text, seeds[at : at + size]) for at in range(0, count, size)]
        return np.concatenate([as_uint8(part) for part in parts])

    @property
    def pass_size(self) -> int:
        """Images of a forward pass without a gradient."""
        return max(self.config.batch_size, self.config.generator.batch_size)

    def referee_of(self, concept: Concept) -> Referee | None:
        """Of one training; None where nobody looks on."""
        if self.config.referee is None or self._referee is None:
            return None
        return Referee(self.config.referee, self._referee, self.teacher, concept.questions)


def check_vlms(config: DualProcessConfig) -> None:
    """InputError for a teacher or a referee of another kind, and for a referee with the teacher's weights. No weights
    are loaded. MissingWeightsError."""
    check_kind(resolve_model(config.teacher.model), "teacher.model")
    if config.referee is not None:
        check_kind(resolve_model(config.referee.model), "referee.model")
        referee, teacher = config.referee.model, config.teacher.model
        if model_digest(referee) == model_digest(teacher) and not config.referee.same_as_teacher:
            raise same_model(referee, teacher)


def as_uint8(images: Any) -> np.ndarray:
    """(B, 3, H, W), black 0 and white 1 -> uint8 (B, H, W, 3), as `FluxGenerator` rounds."""
    return (images.detach().float().clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy() * 255).round().astype(np.uint8)
