"""What a dual-process distillation is told: models, LoRA, steps, and when it has learnt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from schemas.configuration import added_field, content_key, execution_field, model_names, output_config
from schemas.errors import InputError
from trainers.augmentation import AugmentationConfig
from trainers.denoiser_config import DenoiserConfig
from trainers.referee import RefereeConfig
from trainers.vqa_loss import TeacherConfig


@dataclass(frozen=True)
class DualProcessConfig:
    """One distillation. The defaults are the paper's (§4.1), for FLUX.1-schnell at one step."""

    generator: DenoiserConfig = field(default_factory=DenoiserConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    augmentation: AugmentationConfig = added_field(AugmentationConfig())
    referee: RefereeConfig | None = added_field(None)
    """A second VLM, which ends a training that fools the teacher; none: nobody looks on."""
    rank: int = 16
    """Of the LoRA."""
    alpha_per_rank: float = 5.0
    """The LoRA's alpha is this many times its rank ("a high alpha value is crucial")."""
    lora_targets: tuple[str, ...] = ()
    """Ends of the names of the layers that get a LoRA; empty: those that are published, or usual, for the generator."""
    steps: int = 100
    """At most."""
    batch_size: int = 1
    """Images a step."""
    num_seeds: int = 100
    """Different noises, taken in turn."""
    first_seed: int = 100
    """Seed of the first noise; the others follow."""
    learning_rate: float = 5e-5
    """Of AdamW, at its highest."""
    warmup_steps: int = 0
    """Over so many first steps the learning rate rises: Adam's first ones are as long as any, whatever the gradient."""
    weight_decay: float = 0.0
    """Decoupled: at each step the LoRA's weights shrink by this times the learning rate."""
    max_gradient_norm: float = 1.0
    """Longer gradients, of the whole LoRA, are shortened to this length."""
    curriculum: float = added_field(0.0)
    """Easier questions first: on an image a question counts once the answers to those before it in the concept's file
    are more probable than this; 0: all count at once."""
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
    min_rise: float = added_field(0.02)
    """So does one whose answers are not at least so much more probable than before the training."""
    hopeless_probability: float = added_field(0.02)
    """Training ends, and the concept counts as hopeless, where no answer about any image was more probable than this
    ..."""
    hopeless_after: int = added_field(20)
    """... in so many first steps: what the VLM never half believes has no gradient to follow; 0: never."""
    num_evaluated: int = 16
    """Such images, before and after."""
    evaluation_seed: int = 0
    """Seed of the first image that is evaluated; the others follow. None of them is trained on."""
    seed: int = 0
    """Of the new LoRA, and of the denoising step that each training step takes."""
    num_threads: int = 2
    """CPU threads of both models: they change the order of sums, so they belong to the result."""
    checkpoint_every: int = execution_field(10)
    """Steps from one checkpoint to the next."""
    gradient_checkpointing: bool = execution_field(False)
    """Compute the generator's activations again on the way back: less memory, a third more time."""
    vae_checkpointing: bool = execution_field(False)
    """The same of the VAE that decodes: FLUX's alone."""
    text_encoders_wait: bool = execution_field(False)
    """What encodes prompts waits in main memory while none is encoded: FLUX's T5 and CLIP take 9 GiB of a card."""

    def __post_init__(self) -> None:
        self.generator.check_teachable()
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
        if self.referee is not None and self.referee.model == self.teacher.model and not self.referee.same_as_teacher:
            raise same_model(self.referee.model, self.teacher.model)
        if self.augmentation.brightness and self.teacher.pixel_range == "min-max":
            raise InputError(
                f"brightness {self.augmentation.brightness}, and each image stretched between its darkest and lightest",
                field="augmentation.brightness",
                expected="0, or teacher.pixel_range clamp: the stretch takes it back",
            )
        if self.vae_checkpointing and self.generator.kind != "flux":
            raise InputError(
                f"the VAE of {self.generator.kind!r} has no checkpointing", field="vae_checkpointing", expected="false"
            )
        if not 0 <= self.curriculum < 1:
            raise InputError(
                f"questions that wait for answers more probable than {self.curriculum}",
                field="curriculum",
                expected="at least 0, which is all at once, and less than 1",
            )
        if min(self.stop_after, self.hopeless_after) < 0:
            raise InputError(
                f"an end after {self.stop_after} sure steps, or after {self.hopeless_after} hopeless ones",
                field="stop_after, hopeless_after",
                expected="at least 0, which is never",
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

    @property
    def targets(self) -> tuple[str, ...]:
        """`lora_targets`, or the generator's own."""
        return self.lora_targets or self.generator.lora_targets

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models that are loaded."""
        used = (self.generator.used, self.teacher, *([self.referee] if self.referee else []))
        return tuple(dict.fromkeys(name for config in used for name in model_names(config)))

    def key(self, digests: Mapping[str, str], denoiser: str) -> str:
        """Of all that changes a LoRA but the concept. denoiser: the name of its class; digests: of `models`.

        The generator's settings count as they are, without those of the kinds that are not used: so they did when FLUX
        was the only one, and what was finished then still is.
        """
        plain = output_config(self, digests) | self._flat(output_config(self.generator.used, digests))
        return content_key(plain, denoiser)

    def described(self) -> dict[str, Any]:
        """All fields, for people; of the generator, what is used."""
        return asdict(self) | self._flat(asdict(self.generator.used))

    def _flat(self, generator: dict[str, Any]) -> dict[str, Any]:
        return {"generator": generator, "lora_targets": list(self.targets)}


def same_model(referee: str, teacher: str) -> InputError:
    """For a referee that is the teacher."""
    return InputError(
        f"{referee} looks on at its own lessons: the teacher is {teacher}",
        field="referee.model",
        expected="another VLM, or referee.same_as_teacher",
    )
