"""Dual-process distillation: the answers of a frozen VLM teach a LoRA of the generator (Dual-Process Image Generation).

Each step: noise of some seeds, denoised without a gradient to a random step; one step with a gradient to the clean
estimate; decoded; the VLM's loss on the wanted answers, sent back to the LoRA. No image is needed but those that the
generator draws itself, and afterwards no VLM either.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from inference.dual.concept import Concept
from inference.flux.generator import FluxGenerator, FluxGeneratorConfig, production_flux
from inference.model_store import model_digest
from schemas.configuration import content_key, execution_field, model_names, output_config, stable_seed
from schemas.errors import InputError, WorkFailedError
from trainers.checkpoint import Checkpoints
from trainers.denoiser import Denoiser, add_lora, clean_estimate, denoise_to, draw, lora_parameters, remove_lora
from trainers.flux_denoiser import LORA_TARGETS, TEXT_TARGETS, FluxDenoiser
from trainers.kept_prompts import KeptPrompts
from trainers.optimizer import set_learning_rate
from trainers.vqa_loss import TeacherConfig, VqaTeacher

CARD = "card.json"  # written last: a folder that has it is finished


class NotConvergedError(WorkFailedError):
    """The VLM does not give the wanted answers about the taught generator's images. Its LoRA is kept all the same."""


@dataclass(frozen=True)
class DualProcessConfig:
    """One distillation. The defaults are the paper's (§4.1), for FLUX.1-schnell at one step."""

    generator: FluxGeneratorConfig = field(default_factory=FluxGeneratorConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    rank: int = 16
    alpha_per_rank: float = 5.0
    """The LoRA's alpha is this many times its rank ("a high alpha value is crucial")."""
    lora_targets: tuple[str, ...] = LORA_TARGETS
    steps: int = 100
    """At most."""
    batch_size: int = 1
    """Images a step."""
    num_seeds: int = 100
    """Different noises, taken in turn."""
    first_seed: int = 100
    learning_rate: float = 5e-5
    warmup_steps: int = 0
    """Over so many first steps the learning rate rises: Adam's first ones are as long as any, whatever the gradient."""
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0
    earliest_step: int = 0
    """Denoising steps before this one never have the gradient."""
    gradient_steps: int = 1
    """Denoising steps in a row with the gradient, the last of them straight to the clean estimate (the paper: 1). The
    more there are, the more the image is like a finished one, and the more memory it takes."""
    keep_weight: float = 0.0
    """Of the squared distance of other prompts' velocities from what they were (the paper: none)."""
    keep_prompts: tuple[str, ...] = ()
    """Those prompts: of what the generator is to go on drawing as it does."""
    keep_seeds: int = 4
    """Noises of each of them, `first_seed` and on."""
    keep_per_step: int = 4
    """(prompt, time) of them at each step."""
    stop_probability: float = 0.95
    """Training ends early when the answers' probability stays above this ..."""
    stop_after: int = 10
    """... for so many steps; 0: never."""
    min_probability: float = 0.5
    """Below this, on finished images of seeds that were not trained on, the concept counts as not learnt."""
    num_evaluated: int = 16
    """Such images, before and after."""
    evaluation_seed: int = 0
    seed: int = 0
    num_threads: int = 2
    """CPU threads of both models: they change the order of sums, so they belong to the result."""
    checkpoint_every: int = execution_field(10)
    gradient_checkpointing: bool = execution_field(False)
    """Compute the generator's activations again on the way back: less memory, a third more time."""

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size, self.num_seeds, self.rank, self.num_evaluated, self.checkpoint_every) < 1:
            raise InputError(
                f"{self.steps} steps of {self.batch_size} images, {self.num_seeds} seeds, rank {self.rank}, "
                f"{self.num_evaluated} evaluated, a checkpoint every {self.checkpoint_every}",
                expected="all at least 1",
            )
        if self.earliest_step < 0 or self.gradient_steps < 1 or self.num_starts < 1:
            raise InputError(
                f"{self.gradient_steps} steps with a gradient from step {self.earliest_step} of "
                f"{self.generator.num_steps} on",
                field="earliest_step, gradient_steps",
                expected=f"together at most {self.generator.num_steps}",
            )
        if bool(self.keep_weight) != bool(self.keep_prompts) or min(self.keep_seeds, self.keep_per_step) < 1:
            raise InputError(
                f"a weight of {self.keep_weight} for {len(self.keep_prompts)} prompts of {self.keep_seeds} seeds, "
                f"{self.keep_per_step} a step",
                field="keep_weight, keep_prompts",
                expected="both or neither, and at least one seed and one a step",
            )
        trained = range(self.first_seed, self.first_seed + self.num_seeds)
        held_out = range(self.evaluation_seed, self.evaluation_seed + self.num_evaluated)
        if set(trained) & set(held_out):
            raise InputError(
                f"seeds {held_out.start} to {held_out.stop - 1} are evaluated, and trained on too",
                field="evaluation_seed",
                expected=f"seeds outside {trained.start} to {trained.stop - 1}",
            )

    @property
    def num_starts(self) -> int:
        """Denoising steps at which the gradient may start."""
        return self.generator.num_steps - self.earliest_step - self.gradient_steps + 1


@dataclass(frozen=True)
class Point:
    """One training step: mean loss and mean probability of the wanted answers; `at`: where the gradient starts."""

    step: int
    loss: float
    probability: float
    at: int


@dataclass(frozen=True, eq=False)
class Evaluated:
    """A generator on the evaluation seeds: images uint8 (n, H, W, 3), probabilities (n, questions)."""

    images: np.ndarray
    probabilities: np.ndarray

    @property
    def probability(self) -> float:
        return float(self.probabilities.mean())


@dataclass(frozen=True, eq=False)
class Distilled:
    """What came of a concept. seconds: of training, all attempts together."""

    concept: Concept
    key: str
    curve: tuple[Point, ...]
    before: Evaluated
    after: Evaluated
    converged: bool
    seconds: float


class DualProcess:
    """Generator and teacher, loaded once; each concept is learnt from the generator as it was."""

    def __init__(
        self, config: DualProcessConfig, denoiser: Denoiser | None = None, teacher: VqaTeacher | None = None
    ) -> None:
        """Loads what is not given. MissingWeightsError; InputError for a teacher of another kind."""
        self.config = config
        self.denoiser = denoiser or FluxDenoiser(FluxGenerator(config.generator))
        self.teacher = teacher or VqaTeacher(config.teacher)
        self._models = content_key(
            output_config(config, {name: model_digest(name) for name in model_names(config)}),
            type(self.denoiser).__name__,
        )

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
    ) -> Distilled:
        """Learn a concept in the folder `out`, from its newest checkpoint, and write LoRA, curve, grid and card there.

        while_taught: called when it is learnt, before the generator is as it was again: to draw more with it.

        InputError where the folder holds another concept's checkpoints, or the same of other settings; WorkFailedError
        for a loss that is no number; NotConvergedError, after everything is written.
        """
        from trainers.concept_card import write_card

        config, network = self.config, self.denoiser.network
        text = self.denoiser.encode(concept.prompt)
        _ = self.kept  # recorded now, of the generator as it was
        parameters = add_lora(
            network, config.rank, config.rank * config.alpha_per_rank, config.lora_targets, config.seed
        )
        if config.gradient_checkpointing:
            network.enable_gradient_checkpointing()  # pyright: ignore[reportCallIssue]
        try:
            before = self.evaluate(concept, text)
            training = _Training(self, concept, text, parameters, out)
            for point in training.run():
                on_step(point)
            after = self.evaluate(concept, text)
            converged = after.probability >= config.min_probability
            curve, seconds = tuple(training.curve), training.seconds
            found = Distilled(concept, self.key_of(concept), curve, before, after, converged, seconds)
            out.mkdir(parents=True, exist_ok=True)
            self.denoiser.save_lora(out)
            while_taught()
            write_card(out, found, config)
        finally:
            remove_lora(network)
        if not converged:
            raise NotConvergedError(
                f"concept {concept.name!r} is not learnt: after {len(curve)} steps the wanted answers have probability "
                f"{after.probability:.2f} (before: {before.probability:.2f}), less than {config.min_probability}\n"
                f"  see {out}; more steps, another learning rate or another question may help"
            )
        return found

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

    def run(self) -> Iterator[Point]:
        """Train to the last step, or to where the answers are sure enough."""
        config = self.config
        while len(self.curve) < config.steps and not self._is_sure():
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
        losses = []
        for asked in self.concept.questions:
            each = self.models.teacher.losses(pixels, asked)
            (each.mean() / len(self.concept.questions)).backward()
            losses.append(each.detach())
        every = torch.stack(losses)
        loss = float(every.mean())
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
        return Point(number, loss, float((-every).exp().mean()), at)

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
        if state["key"] != self.models.key_of(self.concept):
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
    """(B, 3, H, W) in [0, 1] -> uint8 (B, H, W, 3), as `FluxGenerator` rounds."""
    return (images.detach().float().permute(0, 2, 3, 1).cpu().numpy() * 255).round().astype(np.uint8)


def finished_key(folder: Path) -> str | None:
    """The key of the concept that a folder holds finished; None where it is not."""
    try:
        card = json.loads((folder / CARD).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return card.get("key") if isinstance(card, dict) else None


def schnell_dual_process() -> DualProcessConfig:
    """FLUX.1-schnell at one step, taught by Qwen2.5-VL-7B at 512 px, on one 80 GB GPU."""
    flux = replace(production_flux("black-forest-labs/FLUX.1-schnell"), num_steps=1, size_px=512, text_lengths=(256,))
    teacher = TeacherConfig("Qwen/Qwen2.5-VL-7B-Instruct", dtype="bfloat16", gradient_checkpointing=True, device="cuda")
    return DualProcessConfig(flux, teacher, gradient_checkpointing=True)


def dev_dual_process() -> DualProcessConfig:
    """FLUX.1-dev at a random one of 28 steps, the rest as schnell's."""
    base = schnell_dual_process()
    flux = replace(production_flux(), num_steps=28, size_px=512)
    return replace(base, generator=flux)


def micro_dual_process() -> DualProcessConfig:
    """The micro FLUX and the micro VLM on two cores: larger steps, several images each, and a gradient through all four
    steps: what one step makes of the micro FLUX's noise is too blurred for the VLM to say anything about. The LoRA is
    the text's alone: through weights of the image the gradient finds textures that fool the micro VLM. What it does to
    24 training captions is held down, or a concept costs half of all other prompts."""
    return DualProcessConfig(
        keep_weight=10.0,
        keep_prompts=_training_captions(24),
        batch_size=8,
        steps=80,
        learning_rate=1e-3,
        lora_targets=TEXT_TARGETS,
        warmup_steps=10,
        gradient_steps=4,
        stop_probability=0.9,
    )


def _training_captions(number: int) -> tuple[str, ...]:
    from microworld.scenes.captions import sample_training_caption

    rng, found = np.random.default_rng([0, 92]), {}
    while len(found) < number:
        found[sample_training_caption(rng).text] = True
    return tuple(found)
