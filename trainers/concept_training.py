"""The training of one concept: its steps, when they end, and why it is not learnt. See `trainers.dual_process`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.dual.concept import Concept, QuestionAnswer
from schemas.configuration import stable_seed
from schemas.errors import InputError, StoppedError, WorkFailedError
from trainers.augmentation import augmented
from trainers.checkpoint import Checkpoints
from trainers.denoiser import clean_estimate, denoise_to, lora_parameters
from trainers.distilled import Evaluated, Fooled, Look, Point
from trainers.dual_process_config import DualProcessConfig
from trainers.optimizer import set_learning_rate

if TYPE_CHECKING:
    import torch

    from trainers.dual_process import DualProcess


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


class ConceptTraining:
    """The steps of one concept. Step n is the same in every attempt, so a killed one goes on with the same numbers."""

    def __init__(
        self, models: DualProcess, concept: Concept, texts: Sequence[Any], parameters: list[Any], out: Path
    ) -> None:
        """texts: of each prompt that is taught, as the denoiser encodes it."""
        import torch

        self.models, self.concept, self.texts, self.out = models, concept, texts, out
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
        turn = number % len(self.texts)
        questions, text = self.concept.taught[turn].questions, self.texts[turn]
        first = number * config.batch_size
        seeds = [config.first_seed + (first + i) % config.num_seeds for i in range(config.batch_size)]
        at = config.earliest_step + stable_seed(config.seed, "step", number) % config.num_starts

        z = denoise_to(denoiser, denoiser.noise(seeds), text, at)
        images = clean_estimate(denoiser, z, text, at, config.gradient_steps)
        # Back to the images first, so that the VLM's activations are gone before the generator's are used.
        pixels = images.detach().requires_grad_()
        ask = self._asked_in_turn if config.curriculum else self._asked_at_once
        every, counts = ask(questions, pixels, number, seeds)
        loss = float(every[counts].mean())
        if not math.isfinite(loss):
            raise WorkFailedError(
                f"concept {self.concept.name!r}, step {number}: the loss is {loss}; lower the learning rate"
            )
        assert pixels.grad is not None
        images.backward(pixels.grad)
        if self.models.kept is not None:
            taught = [one.prompt for one in self.concept.taught]
            keeping = self.models.kept.loss((config.seed, 91, number), config.keep_per_step, taught)
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
        self, questions: Sequence[QuestionAnswer], pixels: torch.Tensor, number: int, seeds: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sends the mean loss of all questions back to `pixels` (B, 3, H, W). Each loss, (questions, B), and which of
        them count: here all."""
        import torch

        losses = []
        for place, asked in enumerate(questions):
            each = self._losses(pixels, asked, place, number, seeds)
            (each.mean() / len(questions)).backward()
            losses.append(each.detach())
        every = torch.stack(losses)
        return every, torch.ones_like(every, dtype=torch.bool)

    def _asked_in_turn(
        self, questions: Sequence[QuestionAnswer], pixels: torch.Tensor, number: int, seeds: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The same where an image is asked a question only once it gets the answers to those before it. What was not
        asked has the loss 0, and does not count. Nothing is remembered from step to step."""
        import torch

        every = pixels.new_zeros(len(questions), len(pixels))
        counts = torch.zeros_like(every, dtype=torch.bool)
        further = torch.arange(len(pixels), device=pixels.device)
        for place, asked in enumerate(questions):
            each = self._losses(pixels[further], asked, place, number, [seeds[i] for i in further.tolist()])
            each.sum().backward()
            every[place, further], counts[place, further] = each.detach().to(every.dtype), True
            further = further[(-each.detach()).exp() > self.config.curriculum]
            if not len(further):
                break
        assert pixels.grad is not None
        pixels.grad /= counts.sum()
        return every, counts

    def _losses(
        self, pixels: torch.Tensor, asked: QuestionAnswer, place: int, number: int, seeds: Sequence[int]
    ) -> torch.Tensor:
        """pixels (B, 3, H, W), of those seeds -> (B,): the teacher's losses at a step, of the question at `place`, in
        one of its wordings, of what it sees of the images."""
        config = self.config
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

    def why_not(self, before: Sequence[Evaluated], after: Sequence[Evaluated]) -> str:
        """What keeps the concept from being learnt, of the first prompt for which something does, for people; empty
        where it is. before, after: of each prompt that is taught."""
        for turn, (one, was, now) in enumerate(zip(self.concept.taught, before, after, strict=True)):
            said = self._why_not_one(one, was, now, self.curve[turn :: len(before)])
            if said:
                return f"of {one.prompt!r} {said}" if self.concept.also else said
        return ""

    def _why_not_one(self, one: Concept, before: Evaluated, after: Evaluated, curve: Sequence[Point]) -> str:
        """curve: the steps that were of this prompt."""
        config = self.config
        said = why_not_learnt(before.probability, after.probability, self.is_hopeless, config)
        said = said or why_not_all(one, after, config)
        num_asked = max((point.asked for point in curve), default=0)
        if said and config.curriculum and num_asked < len(one.questions):
            never = one.questions[num_asked].question
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
        shown = models.drawn(self.texts[0], count) if images is None else images[:count]
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
