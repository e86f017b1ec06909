"""The words of the pipeline as frozen dataclasses: one prompt with everything that was made of it is one `PromptRow`.

All stages take and return `PromptRow`; each fills in its part. Field types are restricted to what `schemas.arrow` maps:
str, int, float, bool, bytes, other records, `tuple[X, ...]`, and `X | None`.
"""

from dataclasses import dataclass, field
from enum import StrEnum


class Subset(StrEnum):
    """The four sources of GenRef (ReflectionFlow §3.2), named as the published loaders know them."""

    RULE = "rule"
    GENERAL = "general"
    LENGTH = "length"
    EDITING = "editing"


class Tag(StrEnum):
    """GenEval's six tasks."""

    SINGLE_OBJECT = "single_object"
    TWO_OBJECT = "two_object"
    COUNTING = "counting"
    COLORS = "colors"
    POSITION = "position"
    COLOR_ATTR = "color_attr"


RELATIONS = ("left of", "right of", "above", "below")


class Reason(StrEnum):
    """Why a row or a pair was rejected. Every rejection names one of these."""

    BAD_INPUT_ROW = "bad_input_row"
    ALL_CORRECT = "all_correct"
    ALL_WRONG = "all_wrong"
    TOO_EASY = "too_easy"
    TOO_HARD = "too_hard"
    NOT_KEPT = "difficulty_not_kept"
    NO_MARGIN = "no_margin"
    LOW_QUALITY = "low_quality"
    NOT_SHORTER = "condensed_not_shorter"
    SAYS_MORE = "condensed_says_more"
    BROKEN_IMAGE = "broken_image"
    EQUAL_IMAGES = "equal_images"
    OTHER_SIZES = "other_sizes"
    EXTREME_ASPECT = "extreme_aspect"
    NO_CAPTION = "no_caption"
    MALFORMED_ANSWER = "malformed_answer"
    EMPTY_ANSWER = "empty_answer"
    REFUSED_ANSWER = "refused_answer"
    ONLY_REASONING = "only_reasoning"
    OVERLONG_ANSWER = "overlong_answer"
    WRONG_VERDICT = "wrong_verdict"
    EMPTY_REFLECTION = "empty_reflection"
    NOTHING_TO_CORRECT = "nothing_to_correct"
    REFUSED_REFLECTION = "refused_reflection"
    VAGUE_REFLECTION = "vague_reflection"
    CHANGES_NOTHING = "reflection_changes_nothing"
    REFLECTION_NAMES_SIDE = "reflection_names_side"
    VERIFIER_DISAGREES = "verifier_disagrees"
    UNEXPLAINED_DIFFERENCE = "unexplained_difference"
    NO_PAIR_LEFT = "no_pair_left"
    BENCHMARK_PROMPT = "benchmark_prompt"


class Outcome(StrEnum):
    """What became of a prompt. `PENDING` exists only while a run is unfinished."""

    PENDING = "pending"
    SHIPPED = "shipped"
    REJECTED = "rejected"
    QUARANTINED = "quarantined"


@dataclass(frozen=True)
class ObjectClause:
    """One requirement on an image, as in GenEval's `include` and `exclude` lists.

    `relation` is one of `RELATIONS`, read "this object is RELATION the object of include clause `relative_to`".
    """

    class_name: str
    count: int = 1
    color: str | None = None
    relation: str | None = None
    relative_to: int | None = None


class RequirementSource(StrEnum):
    """Where the requirements of a prompt come from."""

    FILE = "file"
    GRAMMAR = "grammar"
    VLM = "vlm"
    FALLBACK = "fallback"


@dataclass(frozen=True)
class Question:
    """One requirement as a question about the image, and the answer that an image which meets it gets: "Yes", or a
    number as a word. skill: what it tests, as GenEval 2 names it ("object", "attribute", "count", "position",
    "verb")."""

    text: str
    answer: str = "Yes"
    skill: str | None = None


@dataclass(frozen=True)
class PromptRecord:
    """What is asked for. `prompt_id` matches `[A-Za-z0-9_-]{1,64}` and is unique within a run.

    What an image is checked against is `include`, `exclude` and `questions` together (`inference.requirements.atoms`);
    a prompt that has none of them is a free one. requirements_from: a `RequirementSource`, None where there are none.
    requirements_note: for people, why they are only a fallback.
    """

    prompt_id: str
    text: str
    subset: str
    tag: str | None = None
    include: tuple[ObjectClause, ...] = ()
    exclude: tuple[ObjectClause, ...] = ()
    questions: tuple[Question, ...] = ()
    requirements_from: str | None = None
    requirements_note: str | None = None

    @property
    def is_free(self) -> bool:
        """Whether nothing is known of it but its words."""
        return not (self.include or self.exclude or self.questions)


@dataclass(frozen=True)
class DetectedObject:
    """One object found in an image.

    box: (x0, y0, x1, y1) in pixels. mask_png: 1-bit PNG of the image's size. score: detector's confidence in [0, 1].
    """

    class_name: str
    score: float
    box: tuple[float, ...]
    color: str | None = None
    mask_png: bytes | None = None


@dataclass(frozen=True)
class Check:
    """The Grounded-SAM verdict on a candidate: all requirements met or not, a score in [0, 1], and GenEval-style
    reasons."""

    correct: bool
    score: float
    reasons: tuple[str, ...] = ()
    objects: tuple[DetectedObject, ...] = ()


@dataclass(frozen=True)
class Reward:
    """One scorer's number for a candidate (its own scale; `ensemble` is the combination)."""

    scorer: str
    value: float


@dataclass(frozen=True)
class Cost:
    """What one stage spent on one row. Sums of these are what `status`, the report and search budgets read."""

    generations: int = 0
    denoiser_passes: int = 0
    detector_calls: int = 0
    reward_calls: int = 0
    verifier_calls: int = 0
    vlm_calls: int = 0
    vlm_prompt_tokens: int = 0
    vlm_completion_tokens: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        names = self.__dataclass_fields__
        return Cost(**{name: getattr(self, name) + getattr(other, name) for name in names})

    def in_words(self) -> str:
        """What is not zero, for people."""
        return ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in vars(self).items() if value)


@dataclass(frozen=True)
class AtomValue:
    """How far an image meets one requirement of its prompt (`inference.requirements.atoms`).

    kind: object, count, color, relation, or question. text: the requirement in words. value: probability in [0, 1] that
    the image meets it. mend: the instruction that would mend it, where known; what holds by a hair may have one, too.
    """

    kind: str
    text: str
    value: float
    mend: str | None = None


@dataclass(frozen=True, kw_only=True)
class SearchStep:
    """How a candidate of a search came about: its round and chain (from 0), the verifier's score and its reasons, where
    it gave some; where it was corrected, from which candidate and by which reflection; and what it cost, scores and
    remarks included. parts: what a score is made of that is relative to the prompt's other images. quality: by the
    search's quality reward. restart: why it was drawn afresh where its chain could have gone on (edits, quality, route,
    holds). atoms: how far it meets each requirement, by a verifier that checks them one by one."""

    round: int
    chain: int
    score: float
    explanation: str | None = None
    parent: int | None = None
    reflection: str | None = None
    cost: Cost = field(default_factory=Cost)
    parts: tuple[Reward, ...] = ()
    quality: float | None = None
    restart: str | None = None
    atoms: tuple[AtomValue, ...] = ()


@dataclass(frozen=True)
class Candidate:
    """One image of a prompt. `image` (PNG bytes) is held by the block of the stage that made it and attached on
    reading.

    text: what it was drawn from (the prompt, its condensed form, a refined one). seed: of its noise, in [0, 2**63).
    """

    index: int
    seed: int
    text: str
    num_steps: int
    width_px: int
    height_px: int
    image_sha256: str
    image: bytes | None = field(default=None, repr=False)
    check: Check | None = None
    rewards: tuple[Reward, ...] = ()
    search: SearchStep | None = None


@dataclass(frozen=True)
class Rejection:
    """Data that was turned down: the stage, the reason (a `Reason`), and a sentence for people."""

    stage: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Reflection:
    """How to get from the bad image to the good one.

    annotator: "rule", or the name of the model that wrote it. analysis, verdict ("left" | "right") and good_side are
    those of the chain of thought, where there was one.
    """

    text: str
    annotator: str
    analysis: str | None = None
    verdict: str | None = None
    good_side: str | None = None


@dataclass(frozen=True)
class Pair:
    """A good and a bad candidate of one prompt, by candidate index, and why they were paired.

    good_score, bad_score: what the verifier gave the two images, on its own scale. likeness: how alike they are, 1 for
    equal ones, on the scale of what measured it (`likeness_by`: pixels, clip or dino); None where nobody did.
    """

    index: int
    good: int
    bad: int
    paired_by: str
    reflection: Reflection | None = None
    rejection: Rejection | None = None
    good_score: float | None = None
    bad_score: float | None = None
    likeness: float | None = None
    likeness_by: str | None = None


@dataclass(frozen=True)
class Quarantine:
    """A row that failed for good in `stage`; the traceback is in the run's quarantine folder."""

    stage: str
    error: str


@dataclass(frozen=True)
class EditSource:
    """Where an editing triplet lies: `position` is the row of a Parquet file, or the byte offset of a sample in a tar.

    instruction: how the dataset says to get from its source image to its edited one.
    """

    file: str
    position: int
    instruction: str


@dataclass(frozen=True)
class PromptRow:
    """One prompt with its candidates and pairs: the row of every stage.

    difficulty: share of correct candidates in [0, 1]; difficulty_bin: "easy" | "medium" | "hard". cost: of the stage
    that wrote the block alone. recovered: how the row was computed when not in the usual batch shape (after an
    out-of-memory). condensed: the short form of a long prompt. edit: where the images of an editing triplet lie.
    allotted: images that the next round of a search draws, where not every prompt gets the same.
    """

    prompt: PromptRecord
    candidates: tuple[Candidate, ...] = ()
    pairs: tuple[Pair, ...] = ()
    difficulty: float | None = None
    difficulty_bin: str | None = None
    rejection: Rejection | None = None
    quarantine: Quarantine | None = None
    cost: Cost = Cost()
    recovered: str | None = None
    condensed: str | None = None
    edit: EditSource | None = None
    allotted: int | None = None

    @property
    def active(self) -> bool:
        """True while stages still have work to do on this row."""
        return self.rejection is None and self.quarantine is None

    @property
    def shipped_pairs(self) -> tuple[Pair, ...]:
        """Pairs that go into a shard."""
        return tuple(pair for pair in self.pairs if pair.rejection is None) if self.active else ()
