"""A judge for any prompt: a VLM that did not choose among the images is asked, requirement by requirement.

As in GenEval 2's Soft-TIFA, what counts is how probable the expected answer is: an image is right where that is at
least one half for every requirement, and its score is their geometric mean. A prompt of which nothing but its words is
known is put as one question.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inference.interfaces import Vlm
from inference.model_store import base_model_of, model_digest, resolve_model
from inference.requirements.atoms import HOLDS, Atom, AtomKind, atoms_of
from inference.requirements.question_atoms import ONE_WORD, as_question, question_probabilities
from inference.requirements.read_answer import show_question
from inference.vlm.endpoint import Journal
from inference.vlm.trained_verifier import TrainedVerifierConfig
from inference.vlm.vlm import VlmConfig
from schemas.configuration import execution_field, template_field
from schemas.errors import InputError, MissingWeightsError
from schemas.records import Check, PromptRecord

JUDGE_VLM = "Qwen/Qwen3-VL-8B-Instruct"
"""GenEval 2's."""


@dataclass(frozen=True)
class QuestionsJudgeConfig:
    """Which VLM is asked."""

    vlm: VlmConfig = field(default_factory=lambda: VlmConfig(model=JUDGE_VLM))
    """Who answers; not a model that chooses among the images."""
    prompt: str = template_field(ONE_WORD)
    """Template with {question}: a name in inference/prompts, or a file."""
    same_model: bool = execution_field(False)
    """Let the model judge that also chooses: it then finds right what it chose."""

    @property
    def label(self) -> str:
        """How scores by this judge are labelled."""
        return f"questions to {self.vlm.name}"

    def check_others(self, verifier: Any) -> None:
        """InputError where the judge's model is one that chooses. verifier: the configuration of all that is used to
        choose."""
        if self.same_model:
            return
        own = _identities(self.vlm.name, bool(self.vlm.endpoint_model))
        for name, is_elsewhere in _models_in(verifier):
            if own & _identities(name, is_elsewhere):
                raise InputError(
                    f"the judge {self.vlm.name} is a model that also chooses ({name}): it would find right what it "
                    "chose",
                    field="--judge.questions.vlm.model",
                    expected="another model; or --judge.questions.same-model",
                )

    def open(self, journal: Journal | None = None) -> QuestionsJudge:
        """Load, start or reach the VLM. MissingWeightsError, InputError."""
        return QuestionsJudge(self.vlm.without_floor.open(journal), self.prompt)


class QuestionsJudge:
    """Judges images of any prompt by questions. See `inference.judges.judge`."""

    def __init__(self, vlm: Vlm, template: str = ONE_WORD) -> None:
        self._vlm, self._template = vlm, template

    def judge(self, images: Sequence[np.ndarray], prompts: Sequence[PromptRecord]) -> list[Check]:
        """A verdict on each image, uint8 (H, W, 3); its reasons are what the image does not meet, with how probable the
        expected answer is."""
        atoms = [atoms_asked(prompt) for prompt in prompts]
        shown = [image for image, of_image in zip(images, atoms, strict=True) for _ in of_image]
        questions = [as_question(prompt, one) for prompt, some in zip(prompts, atoms, strict=True) for one in some]
        found = iter(question_probabilities(self._vlm, shown, questions, self._template).tolist())
        return [_verdict(of_image, [next(found) for _ in of_image]) for of_image in atoms]


def atoms_asked(prompt: PromptRecord) -> tuple[Atom, ...]:
    """What a judge asks of a prompt's images: its requirements, or the whole prompt where there are none."""
    found = atoms_of(prompt)
    if found:
        return found
    whole = show_question(prompt.text)
    return (Atom(AtomKind.QUESTION, whole.text, question=whole),)


def _verdict(atoms: Sequence[Atom], probabilities: Sequence[float]) -> Check:
    failed = [(atom, p) for atom, p in zip(atoms, probabilities, strict=True) if p < HOLDS]
    reasons = tuple(f"{atom.text}: {_expected(atom)}{p:.2f}" for atom, p in sorted(failed, key=lambda one: one[1]))
    return Check(not failed, geometric_mean(probabilities), reasons)


def _expected(atom: Atom) -> str:
    return f"{atom.question.answer} " if atom.question is not None else ""


def geometric_mean(probabilities: Sequence[float]) -> float:
    """In [0, 1] (Soft-TIFA GM); of none, 1."""
    if not probabilities or min(probabilities) <= 0:
        return float(not probabilities)
    return math.exp(math.fsum(math.log(p) for p in probabilities) / len(probabilities))


def _models_in(config: Any) -> Iterator[tuple[str, bool]]:
    """Every model that a configuration asks, and whether its name is one at an address."""
    if isinstance(config, VlmConfig):
        yield config.name, bool(config.endpoint_model)
        return
    for one in fields(config):
        value = getattr(config, one.name)
        if isinstance(value, str) and value and (one.metadata.get("role") == "model" or one.name == "endpoint_model"):
            yield value, one.name == "endpoint_model"
        if isinstance(config, TrainedVerifierConfig) and one.name == "vlm":
            continue  # it says where the verifier computes
        for nested in value if isinstance(value, tuple) else (value,):
            if is_dataclass(nested):
                yield from _models_in(nested)


def _identities(name: str, is_elsewhere: bool) -> set[str]:
    """By what a model is recognised: its name, and the digests of it and of what it is an adapter of."""
    known = name.rstrip("/").casefold()
    is_folder = not is_elsewhere and Path(name).expanduser().exists()
    found = {known} if is_folder else {known, known.rpartition("/")[2]}  # a server may leave out whose model it is
    if is_elsewhere:
        return found
    try:
        found.add(model_digest(name))
        base = base_model_of(resolve_model(name))
    except MissingWeightsError:  # which is told of the model itself
        return found
    return found | _identities(base, False) if base else found


def num_questions(prompts: Iterable[PromptRecord]) -> int:
    """How often a VLM is asked to judge one image of each."""
    return sum(len(atoms_asked(prompt)) for prompt in prompts)
