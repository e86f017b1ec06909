"""A VLM as the critic of a search: it says what is wrong with an image, and refines the prompt."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from inference.interfaces import ChatRequest, Vlm
from inference.reflection_text import reflection_of
from inference.search import Remark
from inference.vlm.asking import ask_until_read
from inference.vlm.clean_text import Said, clean_text
from inference.vlm.endpoint import Journal
from inference.vlm.prompts import fill_known, load_prompt
from inference.vlm.reflector_words import OWN_WORDS, words_of
from inference.vlm.vlm import VlmConfig
from schemas.configuration import model_field, template_field
from schemas.errors import InputError
from schemas.records import AtomValue, Cost, PromptRecord

_FILLERS = frozenset({"a", "an", "the", "of", "and", "photo", "picture", "image"})


@dataclass(frozen=True)
class VlmCriticConfig:
    """Who reflects and refines, and in which words it is asked. A template must have {prompt}, and may have {current},
    the wording that the image was drawn from, {score} and {explanation}, the verifier's score and its reasons, and
    where it refines {reflection}. A line whose field has nothing to say is left out."""

    vlm: VlmConfig | None = None
    """The run's VLM, unless the critic has one of its own."""
    reflector: str = model_field("")
    """A trained reflector's weights; without one the VLM itself reflects."""
    reflector_vlm: VlmConfig | None = None
    """How the reflector is reached and samples, where that is not as `vlm` is; its model is the reflector unless
    `reflector` names another."""
    reflect: str = template_field("reflect_scored")
    """Template that asks `vlm` what is wrong with an image."""
    reflector_prompt: str = template_field("")
    """Template that asks a trained reflector; without one it is asked in the words that it was trained in, which its
    folder holds (`reflector.json`), or where it has none, in our own (`reflect`)."""
    refine: str = template_field("refine")
    """Template that asks for a better prompt."""
    keep_words: bool = False
    """Turn down a refined prompt that lost a word of the user's, or has them in another order (see `keeps_words`)."""
    max_attempts: int = 2
    """Tries for a reflection that is one (no refusal, not empty, not cut off); the further ones are sampled."""

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise InputError(f"{self.max_attempts} tries", field="critic.vlm.max_attempts", expected="at least 1")

    @property
    def writer(self) -> str:
        """Who writes the reflections."""
        return self._reflecting.name

    @property
    def _reflecting(self) -> VlmConfig:
        return reflecting_vlm(self.reflector, self.reflector_vlm, self.vlm or VlmConfig())

    @property
    def asked(self) -> tuple[VlmConfig, VlmConfig]:
        """Who reflects and who refines."""
        return self._reflecting, self.vlm or VlmConfig()

    def open(self, journal: Journal | None = None) -> VlmCritic:
        """Load reflector and refiner: one VLM, or two where a reflector was trained. MissingWeightsError."""
        vlm = self.vlm or VlmConfig()
        refiner = vlm.open(journal)
        if not (self.reflector or self.reflector_vlm):
            return VlmCritic(refiner, refiner, self)
        reflecting = self._reflecting
        words = reflector_words(reflecting, self.reflector_prompt)
        return VlmCritic(reflecting.open(journal), refiner, self, words)


def reflecting_vlm(reflector: str, own: VlmConfig | None, otherwise: VlmConfig) -> VlmConfig:
    """Who reflects. reflector: a model's name, or "". own: how it is reached, or None for as `otherwise` is."""
    vlm = own or otherwise
    return vlm.of_model(reflector) if reflector else vlm


def reflector_words(reflecting: VlmConfig, named: str) -> str:
    """The template to ask it by: `named`, or the words of its training, where it lies here to say them."""
    if reflecting.endpoint_model:
        return load_prompt(named or OWN_WORDS)
    return words_of(reflecting.model, named)


class VlmCritic:
    """See `inference.search.Critic`. First all reflections, then all refined prompts, which may see them."""

    def __init__(self, reflector: Vlm, refiner: Vlm, config: VlmCriticConfig, words: str = "") -> None:
        """words: template that asks `reflector`, instead of `config.reflect`."""
        self._reflector, self._refiner, self._config = reflector, refiner, config
        self._reflect, self._refine = words or load_prompt(config.reflect), load_prompt(config.refine)

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
        """A reflection and a refined prompt for each image; where an answer is none or was cut off, however often it
        was asked for, none and the current prompt, which also stays where the refined one is turned down. A reflection
        that is not used is asked for where the refiner is shown it. No explanations: there are none of any image."""
        del atoms, records  # it looks for itself
        known = self._known(prompts, current, scores, explanations)
        costs, said = [Cost()] * len(images), [""] * len(images)
        if reflect or (refine and "{reflection}" in self._refine):
            attempts = self._config.max_attempts
            said, costs = _ask(self._reflector, self._reflect, known, images, costs, reflection_of, attempts)
        remarks = [Remark(text, now, cost) for text, now, cost in zip(said, current, costs, strict=True)]
        return self.refined(images, prompts, remarks, scores, explanations) if refine else remarks

    def refined(
        self,
        images: Sequence[np.ndarray],
        prompts: Sequence[str],
        remarks: Sequence[Remark],
        scores: Sequence[float],
        explanations: Sequence[str] = (),
    ) -> list[Remark]:
        """The same remarks with a refined prompt in place of the one that each has; that one stays where the refined
        one is turned down."""
        current, costs = [remark.prompt for remark in remarks], [remark.cost for remark in remarks]
        known = self._known(prompts, current, scores, explanations)
        told = [{**k, "reflection": remark.reflection} for k, remark in zip(known, remarks, strict=True)]
        better, costs = _ask(self._refiner, self._refine, told, images, costs, clean_text)
        if self._config.keep_words:
            better = [text if keeps_words(k["prompt"], text) else "" for k, text in zip(known, better, strict=True)]
        return [
            replace(remark, prompt=text or remark.prompt, cost=cost)
            for remark, text, cost in zip(remarks, better, costs, strict=True)
        ]

    def reflect_on(
        self, images: Sequence[np.ndarray], known: Sequence[dict[str, str]], template: str
    ) -> list[tuple[str, Cost]]:
        """What the VLM itself, no trained reflector, says of images in other words than usual; known: {prompt} and
        whatever else is in `template`. "" where it comes to no reflection."""
        attempts = self._config.max_attempts
        said, costs = _ask(self._refiner, template, known, images, [Cost()] * len(images), reflection_of, attempts)
        return list(zip(said, costs, strict=True))

    def _known(
        self,
        prompts: Sequence[str],
        current: Sequence[str],
        scores: Sequence[float],
        explanations: Sequence[str],
    ) -> list[dict[str, str]]:
        reasons = explanations or [""] * len(prompts)
        return [
            {"prompt": prompt, "current": now, "score": f"{score:.2f}", "explanation": why}
            for prompt, now, score, why in zip(prompts, current, scores, reasons, strict=True)
        ]


def keeps_words(prompt: str, refined: str) -> bool:
    """Whether all words of `prompt` stand in `refined`, in their order; articles and "photo of" do not count.

    A refiner that drops an object, a colour or a relation has the search draw something else.
    """
    words = iter(re.findall(r"\w+", refined.lower()))
    return all(word in words for word in re.findall(r"\w+", prompt.lower()) if word not in _FILLERS)


def _ask(
    vlm: Vlm,
    template: str,
    known: Sequence[dict[str, str]],
    images: Sequence[np.ndarray],
    costs: Sequence[Cost],
    read: Callable[[str], Said],
    max_attempts: int = 1,
) -> tuple[list[str], list[Cost]]:
    """The texts that `read` finds in the answers ("" for one that was cut off or is none), and what was spent so far
    and on them."""

    def usable(index: int, answer: str) -> str | None:
        del index
        said = read(answer)
        return said.text or None if said.problem is None else None

    requests = [ChatRequest(fill_known(template, **k), (image,)) for k, image in zip(known, images, strict=True)]
    asked = ask_until_read(vlm, requests, usable, max_attempts)
    return [one.value or "" for one in asked], [before + one.cost for before, one in zip(costs, asked, strict=True)]
