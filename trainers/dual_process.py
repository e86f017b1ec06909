"""Dual-process distillation: the answers of a frozen VLM teach a LoRA of the generator (Dual-Process Image Generation).

Each step: noise of some seeds, denoised without a gradient to a random step; one step with a gradient to the clean
estimate; decoded; the VLM's loss on the wanted answers, sent back to the LoRA. No image is needed but those that the
generator draws itself, and afterwards no VLM either.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.dual.concept import Concept
from inference.model_store import model_digest
from schemas.configuration import content_key, stable_seed
from schemas.errors import InputError, StoppedError, WorkFailedError
from trainers.checkpoint import Checkpoints, exported
from trainers.concept_card import drawing_command, write_card
from trainers.denoiser import Denoiser, add_lora, clean_estimate, denoise_to, draw, lora_parameters, remove_lora
from trainers.distilled import Distilled, Evaluated, Point
from trainers.dual_process_config import DualProcessConfig
from trainers.kept_prompts import KeptPrompts
from trainers.optimizer import set_learning_rate
from trainers.vqa_loss import VqaTeacher

if TYPE_CHECKING:
    import torch


class NotConvergedError(WorkFailedError):
    """The VLM does not give the wanted answers about the taught generator's images. Its LoRA is kept all the same."""


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
        MissingWeightsError; InputError for a teacher of another kind."""
        self.config, self._drawing_flags = config, drawing_flags
        self.denoiser = denoiser or config.generator.open()
        self.teacher = teacher or VqaTeacher(config.teacher)
        self._models = config.key({name: model_digest(name) for name in config.models}, type(self.denoiser).__name__)

    @cached_property
    def kept(self) -> KeptPrompts | None:
        """The same for all concepts; made before the first one's LoRA is."""
        config = self.config
        seeds = range(config.first_seed, config.first_seed + config.keep_seeds)
        return KeptPrompts(self.denoiser, config.keep_prompts, seeds) if config.keep_prompts else None

    def key_of(self, concept: Concept) -> str:
        """Changes with everything that changes the LoRA: settings, models, the concept's file and pictures."""
        return content_key(self._models, concept.digest)

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
            for point in training.run(stop):
                on_step(point)
            after = self.evaluate(concept, text)
            why_not = why_not_learnt(before.probability, after.probability, training.is_hopeless, config)
            why_not = why_not or why_not_all(concept, after, config)
            num_asked = max(point.asked for point in training.curve)
            if why_not and config.curriculum and num_asked < len(concept.questions):
                never = concept.questions[num_asked].question
                why_not += f"; {never!r} was never asked: no image got the answers before it (curriculum)"
            curve, seconds = tuple(training.curve), training.seconds
            distilled = Distilled(concept, self.key_of(concept), curve, before, after, why_not, seconds)
            with exported(out) as folder:
                self.denoiser.save_lora(folder)
                while_taught()
                drawn_by = config.generator.drawn_by
                command = drawing_command(concept.prompt, self._drawing_flags, drawn_by, out)
                write_card(folder, distilled, config, command)
        finally:
            remove_lora(network)
        if why_not:
            raise NotConvergedError(
                f"concept {concept.name!r} is not learnt: after {len(curve)} steps {why_not}\n"
                f"  see {out}; more steps, another learning rate or another question may help"
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
        config, images = self.config, []
        seeds = range(config.evaluation_seed, config.evaluation_seed + config.num_evaluated)
        size = max(config.batch_size, config.generator.batch_size)
        for start in range(0, len(seeds), size):
            images.append(as_uint8(draw(self.denoiser, text, seeds[start : start + size])))
        drawn = np.concatenate(images)
        answers = [
            np.concatenate([self.teacher.probabilities(drawn[i : i + size], asked) for i in range(0, len(drawn), size)])
            for asked in concept.questions
        ]
        return Evaluated(drawn, np.stack(answers, 1))


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
        self._restore()

    def run(self, stop: Callable[[], bool]) -> Iterator[Point]:
        """Train to the last step, or to where the answers are sure enough, or hopeless. StoppedError, with a
        checkpoint."""
        config = self.config
        while len(self.curve) < config.steps and not self._is_sure() and not self.is_hopeless:
            if stop():
                self._save()
                raise StoppedError(
                    f"concept {self.concept.name!r}: stopped after step {len(self.curve)}, of which there is a "
                    f"checkpoint; the same command goes on"
                )
            started = time.monotonic()
            point = self._step(len(self.curve))
            self.curve.append(point)
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
        every, counts = (self._asked_in_turn if config.curriculum else self._asked_at_once)(pixels)
        loss = float(every[counts].mean())
        if not math.isfinite(loss):
            raise WorkFailedError(
                f"concept {self.concept.name!r}, step {number}: the loss is {loss}; lower the learning rate"
            )
        assert pixels.grad is not None
        images.backward(pixels.grad)
        if self.models.kept is not None:
            keeping = self.models.kept.loss((config.seed, 91, number), config.keep_per_step)
            (config.keep_weight * keeping).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, config.max_gradient_norm)
        warmth = min(1.0, (number + 1) / max(1, config.warmup_steps))
        set_learning_rate(self.optimizer, config.learning_rate * warmth)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        answers = (-every).exp() * counts
        num_asked = int(counts.any(1).sum())
        return Point(number, loss, float(answers.mean()), at, float(answers.max()), num_asked)

    def _ask(self, place: int, pixels: torch.Tensor) -> torch.Tensor:
        """Losses (B,) of the question at a place of the concept, about images (B, 3, H, W)."""
        return self.models.teacher.losses(pixels, self.concept.questions[place])

    def _asked_at_once(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Sends the mean loss of all questions back to `pixels` (B, 3, H, W). Each loss, (questions, B), and which of
        them count: here all."""
        import torch

        losses = []
        for place in range(len(self.concept.questions)):
            each = self._ask(place, pixels)
            (each.mean() / len(self.concept.questions)).backward()
            losses.append(each.detach())
        every = torch.stack(losses)
        return every, torch.ones_like(every, dtype=torch.bool)

    def _asked_in_turn(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same where an image is asked a question only once it gets the answers to those before it. What was not
        asked has the loss 0, and does not count. Nothing is remembered from step to step."""
        import torch

        every = pixels.new_zeros(len(self.concept.questions), len(pixels))
        counts = torch.zeros_like(every, dtype=torch.bool)
        further = torch.arange(len(pixels), device=pixels.device)
        for place in range(len(self.concept.questions)):
            each = self._ask(place, pixels[further])
            each.sum().backward()
            every[place, further], counts[place, further] = each.detach().to(every.dtype), True
            further = further[(-each.detach()).exp() > self.config.curriculum]
            if not len(further):
                break
        assert pixels.grad is not None
        pixels.grad /= counts.sum()
        return every, counts

    @property
    def is_hopeless(self) -> bool:
        """Whether none of the first answers was anything but improbable."""
        first = self.curve[: self.config.hopeless_after]
        few = len(first) < self.config.hopeless_after or not first
        return not few and max(point.best for point in first) <= self.config.hopeless_probability

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
            },
        )

    def _restore(self) -> None:
        import torch

        state = self.checkpoints.latest(self.config.generator.device)
        if state is None:
            return
        if state.get("key") != self.models.key_of(self.concept):
            raise InputError(
                f"{self.out}: its checkpoints are of another concept, of other settings or of other models",
                field="--out",
                expected="what it was started with, or another folder",
            )
        with torch.no_grad():
            for name, parameter in lora_parameters(self.models.denoiser.network).items():
                parameter.copy_(state["weights"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.curve = [Point(**point) for point in state["curve"]]
        self.seconds = float(state["seconds"])


def as_uint8(images: Any) -> np.ndarray:
    """(B, 3, H, W), black 0 and white 1 -> uint8 (B, H, W, 3), as `FluxGenerator` rounds."""
    return (images.detach().float().clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy() * 255).round().astype(np.uint8)
