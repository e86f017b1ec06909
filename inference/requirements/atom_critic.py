"""A critic that knows what fails: what the verifier found wrong is said in its own words, and only what it does not
know is asked of a VLM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from inference.prompt_grammar import record_of
from inference.requirements.atoms import AtomKind, failing
from inference.search import NOTHING_WRONG, Remark
from inference.vlm.critic import VlmCritic
from inference.vlm.prompts import load_prompt
from schemas.configuration import template_field
from schemas.errors import InputError
from schemas.records import AtomValue, PromptRecord


@dataclass(frozen=True)
class AtomCriticConfig:
    """How the requirements that fail become a reflection. It needs a verifier of kind `atoms`."""

    max_told: int = 2
    """Requirements that one reflection mends, the worst first; 0: all that fail."""
    sure: float = 4.0
    """Log-odds from which an image that meets all its requirements is right. Below, what it meets least surely is
    mended, or else the VLM is asked."""
    reflect: str = template_field("reflect_failing")
    """Template that tells the VLM which questions fail, for what no other sentence mends: {prompt} and {failing}."""

    def __post_init__(self) -> None:
        if self.max_told < 0:
            raise InputError(f"{self.max_told} told", field="critic.atoms.max_told", expected="0 for all, or more")


class AtomCritic:
    """See `inference.search.Critic`."""

    def __init__(self, config: AtomCriticConfig, otherwise: VlmCritic) -> None:
        """otherwise: says what is wrong where the verifier does not know, and refines prompts."""
        self._config, self._otherwise, self._template = config, otherwise, load_prompt(config.reflect)

    def remark(
        self,
        images: Sequence[np.ndarray],
        prompts: Sequence[str],
        current: Sequence[str],
        scores: Sequence[float],
        *,
        explanations: Sequence[str] = (),
        atoms: Sequence[tuple[AtomValue, ...]] = (),
        records: Sequence[PromptRecord] = (),
        reflect: bool,
        refine: bool,
    ) -> list[Remark]:
        """Of each image: what mends what fails; of one that meets all, that it is right where the verifier is sure. No
        VLM is asked for these: it is for failing questions, for images that nothing is known of, and for prompts."""
        atoms = atoms or [()] * len(images)
        explanations, records = explanations or [""] * len(images), records or [record_of(text) for text in prompts]
        told = [known_flaws(of_image, score, self._config) for of_image, score in zip(atoms, scores, strict=True)]
        remarks = [Remark(text, now) for text, now in zip(told, current, strict=True)]
        if reflect:
            self._ask_about_questions(remarks, images, records, atoms)
            self._ask_otherwise(remarks, images, prompts, scores, explanations)
        return self._otherwise.refined(images, prompts, remarks, scores, explanations) if refine else remarks

    def _ask_about_questions(
        self,
        remarks: list[Remark],
        images: Sequence[np.ndarray],
        records: Sequence[PromptRecord],
        atoms: Sequence[Sequence[AtomValue]],
    ) -> None:
        """Puts in what the VLM says where nothing is known but which questions fail."""
        wrong = [[atom for atom in failing(of_image) if atom.kind == AtomKind.QUESTION] for of_image in atoms]
        rows = [i for i, some in enumerate(wrong) if some and not remarks[i].reflection]
        if not rows:
            return
        known = [{"prompt": records[i].text, "failing": _listed(records[i], wrong[i])} for i in rows]
        said = self._otherwise.reflect_on([images[i] for i in rows], known, self._template)
        for i, (text, cost) in zip(rows, said, strict=True):
            remarks[i] = replace(remarks[i], reflection=text, cost=remarks[i].cost + cost)

    def _ask_otherwise(
        self,
        remarks: list[Remark],
        images: Sequence[np.ndarray],
        prompts: Sequence[str],
        scores: Sequence[float],
        explanations: Sequence[str],
    ) -> None:
        """Puts in what the other critic says where nothing is known."""
        rows = [i for i, remark in enumerate(remarks) if not remark.reflection]
        if not rows:
            return
        said = self._otherwise.remark(
            [images[i] for i in rows],
            [prompts[i] for i in rows],
            [remarks[i].prompt for i in rows],
            [scores[i] for i in rows],
            explanations=[explanations[i] for i in rows],
            reflect=True,
            refine=False,
        )
        for i, other in zip(rows, said, strict=True):
            remarks[i] = replace(remarks[i], reflection=other.reflection, cost=remarks[i].cost + other.cost)


def known_flaws(atoms: Sequence[AtomValue], score: float, config: AtomCriticConfig) -> str:
    """A reflection of what the verifier knows without anybody being asked; "" where that is nothing. score: the
    verifier's, of the image."""
    wrong = failing(atoms)
    if atoms and not wrong and score >= config.sure:
        return NOTHING_WRONG
    doubtful = sorted(atoms, key=lambda atom: atom.value)
    mends: dict[str, str] = {}
    for atom in wrong or doubtful:
        if atom.mend:
            mends.setdefault(_subject(atom.mend), atom.mend)
    return " ".join(list(mends.values())[: config.max_told or None])


def _subject(mend: str) -> str:
    """What tells mends apart: the object, of those that replace the only one of its name, for it cannot become two
    things (of which a detector that is unsure may suggest both); any other mend as a whole."""
    named, by, _ = mend.partition(" by ")
    return named if by and named.startswith("Replace the ") else mend


def _listed(record: PromptRecord, wrong: Sequence[AtomValue]) -> str:
    """A line each, the worst first."""
    answers = {question.text: question.answer for question in record.questions}
    return "\n".join(f"- {atom.text} Expected: {answers.get(atom.text, 'Yes')}" for atom in wrong)
