"""Dual-process distillation: the answers of a frozen VLM teach a LoRA of the generator (Dual-Process Image Generation).

Each step: noise of some seeds, denoised without a gradient to a random step; one step with a gradient to the clean
estimate; decoded; the VLM's loss on the wanted answers, sent back to the LoRA. No image is needed but those that the
generator draws itself, and afterwards no VLM either.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.dual.concept import Concept
from inference.model_store import model_digest, resolve_model
from schemas.configuration import content_key, stable_seed
from schemas.errors import InputError, StoppedError, WorkFailedError
from trainers.augmentation import augmented
from trainers.checkpoint import Checkpoints, exported
from trainers.concept_card import drawing_command, write_card
from trainers.denoiser import Denoiser, add_lora, clean_estimate, denoise_to, draw, lora_parameters, remove_lora
from trainers.distilled import Distilled, Evaluated, Fooled, Look, Point
from trainers.dual_process_config import DualProcessConfig, same_model
from trainers.kept_prompts import KeptPrompts
from trainers.optimizer import set_learning_rate
from trainers.referee import Referee, mean_answers
from trainers.vqa_loss import VqaTeacher, check_kind

if TYPE_CHECKING:
    import torch


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
        is_kept = concept.prompt in self.config.keep_prompts  # it was held where it was, once
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
            text = self.denoiser.encode(concept.prompt)
            _ = self.kept  # recorded now, of the generator as it was
        parameters = add_lora(network, config.rank, config.rank * config.alpha_per_rank, config.targets, config.seed)
        if config.gradient_checkpointing:
            network.enable_gradient_checkpointing()  # pyright: ignore[reportCallIssue]
        if config.vae_checkpointing:
            self.denoiser.vae.enable_gradient_checkpointing()  # pyright: ignore[reportCallIssue]
        try:
            before = self.evaluate(concept, text)
            training = _Training(self, concept, text, parameters, out)
            training.look(before.images)
            for point in training.run(stop):
                on_step(point)
            after = self.evaluate(concept, text)
            training.look(after.images, is_last=True)
            looks, fooled = training.looks, training.fooled()
            if fooled is not None:
                fooled = replace(fooled, images=after.images)
                training.take_back()
                after = self.evaluate(concept, text)
            why_not = fooled.why if fooled else training.why_not(before, after)
            curve, seconds = tuple(training.curve), training.seconds
            key = self.key_of(concept)
            distilled = Distilled(concept, key, curve, before, after, why_not, seconds, looks, fooled)
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


def why_not_learnt(before: float, after: float, is_hopeless: bool, config: DualProcessConfig) -> str:
    """What keeps a concept from being learnt, of the answers' probability before and after; empty where it is."""
    if is_hopeless:
        return (
            f"the VLM has nothing to go by: no answer about any image was more probable than "
            f"{config.hopeless_probability} (hopeless_probability). A part of it that it half believes, asked beside "
            f"it, may lead there"
        )
    said = f"the wanted answers have probability {after:.2f} (before: {before:.2f})"
    if after < config.min_probability:
        return f"{said}, less than {config.min_probability} (min_probability)"
    if after - before < config.min_rise:
        return f"{said}: it did not rise by {config.min_rise} (min_rise)"
    return ""


def why_not_all(concept: Concept, after: Evaluated, config: DualProcessConfig) -> str:
    """The same of the single questions: an easy one that is answered hides no hard one."""
    number = after.hardest
    probability = float(after.probabilities[:, number].mean())
    if probability >= config.min_probability:
        return ""
    return (
        f"the wanted answer to {concept.questions[number].question!r} has probability {probability:.2f}, less than "
        f"{config.min_probability} (min_probability)"
    )


class _Training:
    """The steps of one concept. Step n is the same in every attempt, so a killed one goes on with the same numbers."""

    def __init__(self, models: DualProcess, concept: Concept, text: Any, parameters: list[Any], out: Path) -> None:
        import torch

        self.models, self.concept, self.text, self.out = models, concept, text, out
        self.config, self.parameters = models.config, parameters
        self.optimizer = torch.optim.AdamW(parameters, self.config.learning_rate, weight_decay=self.config.weight_decay)
        self.checkpoints = Checkpoints(out / "checkpoints", keep_last=1)
        self.curve: list[Point] = []
        self.seconds = 0.0
        self._referee = models.referee_of(concept)
        self._restore()

    def run(self, stop: Callable[[], bool]) -> Iterator[Point]:
        """Train to the last step, or to where the answers are sure enough, hopeless, or denied by the referee.
        StoppedError, with a checkpoint."""
        config = self.config
        while len(self.curve) < config.steps and not (self._is_sure() or self.is_hopeless or self.fooled()):
            if stop():
                self._save()
                raise StoppedError(
                    f"concept {self.concept.name!r}: stopped after step {len(self.curve)}, of which there is a "
                    f"checkpoint; the same command goes on"
                )
            started = time.monotonic()
            point = self._step(len(self.curve))
            self.curve.append(point)
            self.look()
            self.seconds += time.monotonic() - started
            if len(self.curve) % config.checkpoint_every == 0:
                self._save()
            yield point

    def _step(self, number: int) -> Point:
        """One optimizer step. WorkFailedError, with the last checkpoint sound, where the loss is no number."""
        import torch

        config, denoiser = self.config, self.models.denoiser
        first = number * config.batch_size
        seeds = [config.first_seed + (first + i) % config.num_seeds for i in range(config.batch_size)]
        at = config.earliest_step + stable_seed(config.seed, "step", number) % config.num_starts

        z = denoise_to(denoiser, denoiser.noise(seeds), self.text, at)
        images = clean_estimate(denoiser, z, self.text, at, config.gradient_steps)
        # Back to the images first, so that the VLM's activations are gone before the generator's are used.
        pixels = images.detach().requires_grad_()
        every, counts = (self._asked_in_turn if config.curriculum else self._asked_at_once)(pixels, number, seeds)
        loss = float(every[counts].mean())
        if not math.isfinite(loss):
            raise WorkFailedError(
                f"concept {self.concept.name!r}, step {number}: the loss is {loss}; lower the learning rate"
            )
        assert pixels.grad is not None
        images.backward(pixels.grad)
        if self.models.kept is not None:
            keeping = self.models.kept.loss((config.seed, 91, number), config.keep_per_step, self.concept.prompt)
            (config.keep_weight * keeping).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, config.max_gradient_norm)
        warmth = min(1.0, (number + 1) / max(1, config.warmup_steps))
        set_learning_rate(self.optimizer, config.learning_rate * warmth)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        answers = (-every).exp() * counts
        num_asked = int(counts.any(1).sum())
        return Point(number, loss, float(answers.mean()), at, float(answers.max()), num_asked)

    def _asked_at_once(
        self, pixels: torch.Tensor, number: int, seeds: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sends the mean loss of all questions back to `pixels` (B, 3, H, W). Each loss, (questions, B), and which of
        them count: here all."""
        import torch

        losses = []
        for place in range(len(self.concept.questions)):
            each = self._losses(pixels, place, number, seeds)
            (each.mean() / len(self.concept.questions)).backward()
            losses.append(each.detach())
        every = torch.stack(losses)
        return every, torch.ones_like(every, dtype=torch.bool)

    def _asked_in_turn(
        self, pixels: torch.Tensor, number: int, seeds: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The same where an image is asked a question only once it gets the answers to those before it. What was not
        asked has the loss 0, and does not count. Nothing is remembered from step to step."""
        import torch

        every = pixels.new_zeros(len(self.concept.questions), len(pixels))
        counts = torch.zeros_like(every, dtype=torch.bool)
        further = torch.arange(len(pixels), device=pixels.device)
        for place in range(len(self.concept.questions)):
            each = self._losses(pixels[further], place, number, [seeds[i] for i in further.tolist()])
            each.sum().backward()
            every[place, further], counts[place, further] = each.detach().to(every.dtype), True
            further = further[(-each.detach()).exp() > self.config.curriculum]
            if not len(further):
                break
        assert pixels.grad is not None
        pixels.grad /= counts.sum()
        return every, counts

    def _losses(self, pixels: torch.Tensor, place: int, number: int, seeds: Sequence[int]) -> torch.Tensor:
        """pixels (B, 3, H, W), of those seeds -> (B,): the teacher's losses at a step, of the question at `place`, in
        one of its wordings, of what it sees of the images."""
        config, asked = self.config, self.concept.questions[place]
        wording = asked.wordings[stable_seed(config.seed, "wording", number, place) % len(asked.wordings)]
        if config.augmentation.is_on:
            views = [stable_seed(config.seed, "view", number, place, seed) for seed in seeds]
            pixels = augmented(pixels, config.augmentation, views, is_moved=not asked.overlays)
        return self.models.teacher.losses(pixels, wording)

    @property
    def is_hopeless(self) -> bool:
        """Whether none of the first answers was anything but improbable."""
        first = self.curve[: self.config.hopeless_after]
        few = len(first) < self.config.hopeless_after or not first
        return not few and max(point.best for point in first) <= self.config.hopeless_probability

    def why_not(self, before: Evaluated, after: Evaluated) -> str:
        """What keeps the concept from being learnt, for people; empty where it is."""
        config, questions = self.config, self.concept.questions
        said = why_not_learnt(before.probability, after.probability, self.is_hopeless, config)
        said = said or why_not_all(self.concept, after, config)
        num_asked = max((point.asked for point in self.curve), default=0)
        if said and config.curriculum and num_asked < len(questions):
            never = questions[num_asked].question
            said += f"; {never!r} was never asked: no image got the answers before it (curriculum)"
        return said

    def look(self, images: np.ndarray | None = None, is_last: bool = False) -> None:
        """The referee's, where one is due, or at the end, and none was made. images: of the evaluation seeds, drawn as
        the generator now is; by default they are drawn."""
        referee, step = self._referee, len(self.curve)
        if referee is None or not (referee.is_due(step) or (is_last and not referee.has_looked(step))):
            return
        models = self.models
        count = min(referee.config.num_images, self.config.num_evaluated)
        shown = models.drawn(self.text, count) if images is None else images[:count]
        referee.look(step, shown, lora_parameters(models.denoiser.network), models.pass_size)

    @property
    def looks(self) -> tuple[Look, ...]:
        return tuple(self._referee.looks) if self._referee else ()

    def fooled(self) -> Fooled | None:
        """What is said of a training that the referee ended; None of others."""
        return self._referee.fooled() if self._referee else None

    def take_back(self) -> None:
        """The LoRA of the last look at which the two had not parted; as it is where there was none."""
        if self._referee is not None and self._referee.agreed is not None:
            self._put(self._referee.agreed[1])

    def _put(self, weights: Mapping[str, Any]) -> None:
        import torch

        with torch.no_grad():
            for name, parameter in lora_parameters(self.models.denoiser.network).items():
                parameter.copy_(weights[name])

    def _is_sure(self) -> bool:
        config = self.config
        last = self.curve[-config.stop_after :] if config.stop_after else []
        return len(last) == config.stop_after > 0 and all(p.probability > config.stop_probability for p in last)

    def _save(self) -> None:
        self.checkpoints.save(
            len(self.curve),
            {
                "key": self.models.key_of(self.concept),
                "weights": {name: p.detach() for name, p in lora_parameters(self.models.denoiser.network).items()},
                "optimizer": self.optimizer.state_dict(),
                "curve": [asdict(point) for point in self.curve],
                "seconds": self.seconds,
                "referee": self._referee.state() if self._referee else None,
            },
        )

    def _restore(self) -> None:
        state = self.checkpoints.latest(self.config.generator.device)
        if state is None:
            return
        if state.get("key") != self.models.key_of(self.concept):
            raise InputError(
                f"{self.out}: its checkpoints are of another concept, of other settings or of other models",
                field="--out",
                expected="what it was started with, or another folder",
            )
        self._put(state["weights"])
        if self._referee is not None:
            self._referee.restore(state["referee"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.curve = [Point(**point) for point in state["curve"]]
        self.seconds = float(state["seconds"])


def as_uint8(images: Any) -> np.ndarray:
    """(B, 3, H, W), black 0 and white 1 -> uint8 (B, H, W, 3), as `FluxGenerator` rounds."""
    return (images.detach().float().clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy() * 255).round().astype(np.uint8)
