"""What a pipeline stage or a search may ask of a model: Protocols over plain arrays, no Ray, no paths.

Images are uint8 arrays (H, W, 3), RGB. Boxes are (x0, y0, x1, y1) in pixels of the image.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from schemas.errors import UnscoredError
from schemas.image_size import ImageSize
from schemas.records import AtomValue, Cost, PromptRecord
from schemas.records import Reward as RewardValue


@dataclass(frozen=True)
class Detection:
    """One box a detector found. score in [0, 1]."""

    class_name: str
    score: float
    box: tuple[float, float, float, float]


class Generator(Protocol):
    """Text to image."""

    def generate(
        self, prompts: Sequence[str], seeds: Sequence[int], sizes: Sequence[ImageSize] | None = None
    ) -> list[np.ndarray]:
        """One image (H, W, 3) uint8 for each prompt, of its size (None: of the generator's own, all alike); the image
        depends on (prompt, seed, size, configuration) alone. InputError for a size that it cannot draw."""
        ...

    def draw(
        self, prompts: Sequence[str], seeds: Sequence[int], sizes: Sequence[ImageSize] | None = None
    ) -> Iterator[np.ndarray]:
        """What `generate` gives, each image as soon as it is there."""
        ...

    def warm_up(self, sizes: Sequence[ImageSize] = ()) -> None:
        """Whatever would make the first images of these sizes wait (compiling); may do nothing. InputError for a size
        that it cannot draw. No sizes: its own."""
        ...


class Corrector(Protocol):
    """Draws again from a flawed image."""

    def correct(
        self,
        images: Sequence[np.ndarray],
        prompts: Sequence[str],
        reflections: Sequence[str],
        seeds: Sequence[int],
    ) -> list[np.ndarray]:
        """images uint8 (H, W, 3) -> as many, drawn again, each as large as it was (or as near to that as the model
        can draw)."""
        ...


class Detector(Protocol):
    """Open-vocabulary detection."""

    def detect(self, images: Sequence[np.ndarray], class_names: Sequence[Sequence[str]]) -> list[list[Detection]]:
        """Objects of the named classes in each image, best first."""
        ...


class Segmenter(Protocol):
    """Boxes to masks."""

    def segment(self, images: Sequence[np.ndarray], boxes: Sequence[np.ndarray]) -> list[np.ndarray]:
        """boxes: (n, 4) float for each image. Returns (n, H, W) bool masks for each image."""
        ...


class ColorNamer(Protocol):
    """Which colour word fits a masked object."""

    def name_colors(
        self, images: Sequence[np.ndarray], masks: Sequence[np.ndarray], class_names: Sequence[Sequence[str]]
    ) -> list[list[str]]:
        """masks: (n, H, W) bool for each image, and what each of them shows. A colour name for each mask."""
        ...


@dataclass(frozen=True)
class ChatRequest:
    """One question to a VLM: images uint8 (H, W, 3), in order, before the text; `system` None is the model's own.

    json_schema: the JSON Schema, as JSON text, that the answer must meet; models that can be held to it are, the others
    are only asked. attempt: 0 for the greedy answer; n for the n-th try after one that could not be used: sampled.
    """

    text: str
    images: tuple[np.ndarray, ...] = ()
    system: str | None = None
    json_schema: str | None = None
    attempt: int = 0


@dataclass(frozen=True)
class ChatAnswer:
    """`finished` is False where the answer was cut off at the limit of new tokens. Token counts for the ledger."""

    text: str
    finished: bool
    num_prompt_tokens: int
    num_tokens: int

    @property
    def tokens(self) -> Cost:
        """What it read and wrote; whoever asked counts the call."""
        return Cost(vlm_prompt_tokens=self.num_prompt_tokens, vlm_completion_tokens=self.num_tokens)


class Vlm(Protocol):
    """A vision-language model that answers chat requests, in this process or behind an endpoint."""

    def answer(self, requests: Sequence[ChatRequest]) -> list[ChatAnswer]:
        """Answers in the order of the requests."""
        ...

    def first_word_probabilities(self, requests: Sequence[ChatRequest], words: Sequence[str]) -> np.ndarray:
        """float32 (n, words): the probability that each answer starts with each word ("Yes", "No")."""
        ...


class Reward(Protocol):
    """How well an image is drawn, or fits its prompt."""

    def score(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """float32 (n,), one for each image and its prompt; more is better, on a scale of its own."""
        ...


class Likeness(Protocol):
    """How alike images are."""

    def between(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """images uint8 (H, W, 3), of any sizes -> float32 (n, n): 1 for equal ones, less for others, on a scale of its
        own; the same for (i, j) as for (j, i)."""
        ...


@dataclass(frozen=True)
class Opinion:
    """What a verifier says of an image: its score, what that cost, and why it scores so, in words that reflector and
    refiner are shown; empty for a verifier that gives no reasons. parts: what a score is made of that is relative to
    the other images of its prompt (`inference.rewards.ensemble.relative_scores`). atoms: how far the image meets each
    requirement, by verifiers that check them one by one."""

    score: float
    cost: Cost
    explanation: str = ""
    parts: tuple[RewardValue, ...] = ()
    atoms: tuple[AtomValue, ...] = ()


class Verifier(Reward, Protocol):
    """A reward whose differences are log-odds that one image fits the prompt better than another."""

    def verify(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> list[Opinion]:
        """One for each image. Images of one prompt that stand together may be looked at together."""
        ...


@runtime_checkable
class ReadsRequirements(Verifier, Protocol):
    """A verifier that also looks at what a prompt's record requires (tag, include, exclude), not at its words alone."""

    def verify_records(self, images: Sequence[np.ndarray], prompts: Sequence[PromptRecord]) -> list[Opinion]:
        """As `verify`. What a record does not say, its text does."""
        ...


def verify_records(verifier: Verifier, images: Sequence[np.ndarray], prompts: Sequence[PromptRecord]) -> list[Opinion]:
    """What a verifier says of each image. One that reads requirements gets the records as a prompt file gave them; any
    other the texts. UnscoredError for a score that is no finite number: such an image is neither good nor bad."""
    if isinstance(verifier, ReadsRequirements):
        opinions = verifier.verify_records(images, prompts)
    else:
        opinions = verifier.verify(images, [prompt.text for prompt in prompts])
    texts = [prompt.text for prompt in prompts]
    check_scores([opinion.score for opinion in opinions], texts, type(verifier).__name__)
    return opinions


def check_scores(scores: Sequence[float] | np.ndarray, prompts: Sequence[str], scorer: str) -> None:
    """UnscoredError, which names the first, for scores that are no finite numbers."""
    for number, (score, prompt) in enumerate(zip(scores, prompts, strict=True)):
        if not math.isfinite(score):
            raise UnscoredError(
                f"{scorer} scores image {number + 1} of {len(prompts)}, drawn for {prompt[:200]!r}, as {score}: no "
                "number that images can be chosen by"
            )


def rank_of(score: float) -> float:
    """A score as it is compared: one that is no finite number is below all others, never the best."""
    return score if math.isfinite(score) else -math.inf


class OneCallAnImage:
    """For verifiers that give no reasons, and whose cost is one call for each image."""

    def verify(self: Reward, images: Sequence[np.ndarray], prompts: Sequence[str]) -> list[Opinion]:
        """The scores, and a call for each image."""
        return [Opinion(score, Cost(verifier_calls=1)) for score in self.score(images, prompts).tolist()]
