"""A verifier that checks what a prompt requires piece by piece: typed requirements on what Grounded-SAM finds,
questions by a VLM. The score is the log-odds that all of them are met."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from inference.grounding.grounded_sam import GroundedSam, GroundedSamConfig, classes_to_find
from inference.interfaces import Opinion, Vlm
from inference.prompt_grammar import record_of, with_requirements
from inference.requirements.atoms import HOLDS, Atom, AtomKind, atoms_of, failing, log_odds_of_all
from inference.requirements.mends import plain_mend
from inference.requirements.question_atoms import ONE_WORD, as_question, question_probabilities
from inference.requirements.typed_atoms import UNSURE, typed_atoms
from inference.vlm.endpoint import Journal
from inference.vlm.vlm import VlmConfig
from schemas.configuration import template_field
from schemas.errors import InputError
from schemas.records import AtomValue, Cost, PromptRecord, Question


@dataclass(frozen=True)
class AtomVerifierConfig:
    """Who checks typed requirements, and who is asked the questions."""

    vlm: VlmConfig | None = None
    """Who is asked questions: the run's VLM, unless the verifier has one of its own."""
    grounding: GroundedSamConfig | None = field(default_factory=GroundedSamConfig)
    """Finds the objects of typed requirements; without one they are asked as questions, too."""
    other_classes: tuple[str, ...] = ()
    """More classes to look for, where something seems to be missing, by a second call of the detector: what is surely
    there instead is then named."""
    unsure: tuple[float, float] = UNSURE
    """Scores between which the detector may be wrong about an object: a mend is what holds at most thresholds between
    them."""
    prompt: str = template_field(ONE_WORD)
    """Template with {question}: a name in inference/prompts, or a file."""

    def __post_init__(self) -> None:
        low, high = self.unsure
        if not 0 <= low < high <= 1:
            raise InputError(f"{low:g} and {high:g}", field="verifier.atoms.unsure", expected="two rising scores")

    def only_what_is_used(self) -> AtomVerifierConfig:
        """Grounded-SAM without its other kinds."""
        return replace(self, grounding=self.grounding.only_what_is_used() if self.grounding else None)

    @property
    def is_client(self) -> bool:
        """Whether all its work is to ask a VLM elsewhere."""
        return self.grounding is None and self.vlm is not None and self.vlm.is_elsewhere

    def open(self, journal: Journal | None = None) -> AtomVerifier:
        """Load Grounded-SAM; the VLM is loaded when a question is asked first. MissingWeightsError, InputError."""
        return AtomVerifier(self.grounding.open() if self.grounding else None, self, journal)


class AtomVerifier:
    """See `inference.interfaces.ReadsRequirements`."""

    def __init__(
        self, grounded_sam: GroundedSam | None, config: AtomVerifierConfig, journal: Journal | None = None
    ) -> None:
        self._grounded_sam, self._config, self._journal = grounded_sam, config, journal

    @cached_property
    def _vlm(self) -> Vlm:
        return (self._config.vlm or VlmConfig()).without_floor.open(self._journal)

    def score(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """float32 (n,). InputError for a prompt of which nothing is known but its words."""
        return np.array([opinion.score for opinion in self.verify(images, prompts)], np.float32)

    def verify(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> list[Opinion]:
        """Of words alone: what they tell, in one of GenEval's forms."""
        return self.verify_records(images, [record_of(prompt) for prompt in prompts])

    def verify_records(self, images: Sequence[np.ndarray], prompts: Sequence[PromptRecord]) -> list[Opinion]:
        """Each image's requirements one by one. All images are looked at together, and all questions asked together.
        InputError for a prompt of which nothing is known but its words."""
        records = [_known(prompt) for prompt in prompts]
        atoms = [atoms_of(record) for record in records]
        typed = self._typed(images, records)
        asked = [[atom for atom in of_image if self._is_asked(atom)] for of_image in atoms]
        answers = self._answers(images, records, asked)
        opinions = []
        for record, of_image, (checked, looks), answered in zip(records, atoms, typed, answers, strict=True):
            from_detector, from_vlm = iter(checked), iter(answered)
            values = tuple(
                _of_answer(record, atom, next(from_vlm)) if self._is_asked(atom) else next(from_detector)
                for atom in of_image
            )
            cost = Cost(verifier_calls=1, detector_calls=looks, vlm_calls=len(answered))
            opinions.append(Opinion(log_odds_of_all(values), cost, what_fails(values), atoms=values))
        return opinions

    def _is_asked(self, atom: Atom) -> bool:
        return self._grounded_sam is None or atom.kind is AtomKind.QUESTION

    def _typed(
        self, images: Sequence[np.ndarray], records: Sequence[PromptRecord]
    ) -> list[tuple[tuple[AtomValue, ...], int]]:
        """Of each image, and how often the detector looked at it; () where there are none, or where nobody looks."""
        values: list[tuple[tuple[AtomValue, ...], int]] = [((), 0)] * len(records)
        rows = [i for i, record in enumerate(records) if record.include or record.exclude]
        if self._grounded_sam is None or not rows:
            return values
        own = self._grounded_sam.find_objects([images[i] for i in rows], [classes_to_find(records[i]) for i in rows])
        objects = dict(zip(rows, own, strict=True))
        for i in rows:
            values[i] = (typed_atoms(records[i], objects[i], unsure=self._config.unsure), 1)
        again = [i for i in rows if any(atom.mend for atom in values[i][0])] if self._config.other_classes else []
        if again:
            classes = [(*classes_to_find(records[i]), *self._config.other_classes) for i in again]
            all_found = self._grounded_sam.find_objects([images[i] for i in again], classes)
            for i, found in zip(again, all_found, strict=True):
                others = [item for item in found if item.class_name not in classes_to_find(records[i])]
                values[i] = (typed_atoms(records[i], objects[i], others, self._config.unsure), 2)
        return values

    def _answers(
        self, images: Sequence[np.ndarray], records: Sequence[PromptRecord], asked: Sequence[Sequence[Atom]]
    ) -> list[list[float]]:
        """The probability of each question's expected answer."""
        questions: list[Question] = []
        shown: list[np.ndarray] = []
        for image, record, of_image in zip(images, records, asked, strict=True):
            questions += [as_question(record, atom) for atom in of_image]
            shown += [image] * len(of_image)
        if not questions:
            return [[] for _ in asked]
        values = iter(question_probabilities(self._vlm, shown, questions, self._config.prompt).tolist())
        return [[next(values) for _ in of_image] for of_image in asked]


def what_fails(atoms: Sequence[AtomValue]) -> str:
    """In plain words, the worst first; empty where nothing does."""
    wrong = failing(atoms)
    return f"Not met: {'; '.join(atom.text.rstrip('?.') for atom in wrong)}." if wrong else ""


def _of_answer(record: PromptRecord, atom: Atom, value: float) -> AtomValue:
    return AtomValue(atom.kind.value, atom.text, value, plain_mend(record, atom) if value < HOLDS else None)


def _known(prompt: PromptRecord) -> PromptRecord:
    """With requirements: its own, else what its words tell."""
    if not prompt.is_free:
        return prompt
    try:
        return with_requirements(prompt)
    except InputError as error:
        raise InputError(
            f"nothing is known of what {prompt.text[:200]!r} requires",
            field="prompts",
            expected="a prompt in one of GenEval's forms, a prompt file with `include` or `vqa_list`, or a VLM that "
            "reads prompts (--requirements.kind vlm)",
        ) from error
