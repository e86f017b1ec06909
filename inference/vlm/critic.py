"""A VLM as the critic of a search: it says what is wrong with an image, and refines the prompt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inference.interfaces import ChatRequest, Vlm
from inference.search import Remark
from inference.vlm.endpoint import Journal
from inference.vlm.prompts import fill_prompt, load_prompt
from inference.vlm.vlm import VlmConfig
from schemas.configuration import model_field, template_field
from schemas.records import Cost

_FILLERS = frozenset({"a", "an", "the", "of", "and", "photo", "picture", "image"})


@dataclass(frozen=True)
class VlmCriticConfig:
    """Who reflects and refines, and in which words it is asked. A template may have {prompt}, {current}, {score} and
    {reflection}; it must have {prompt}."""

    vlm: VlmConfig | None = None
    """The run's VLM, unless the critic has one of its own."""
    reflector: str = model_field("")
    """A trained reflector's weights; without one the VLM itself reflects."""
    reflector_vlm: VlmConfig | None = None
    """How the reflector is reached and samples, where that is not as `vlm` is; its model is the reflector unless
    `reflector` names another."""
    reflect: str = template_field("reflect_scored")
    """Template that asks what is wrong with an image."""
    refine: str = template_field("refine")
    """Template that asks for a better prompt."""
    keep_words: bool = False
    """Turn down a refined prompt that lost a word of the user's, or has them in another order (see `keeps_words`)."""

    @property
    def writer(self) -> str:
        """Who writes the reflections."""
        return self._reflecting.name

    @property
    def _reflecting(self) -> VlmConfig:
        return reflecting_vlm(self.reflector, self.reflector_vlm, self.vlm or VlmConfig())

    def open(self, journal: Journal | None = None) -> VlmCritic:
        """Load reflector and refiner: one VLM, or two where a reflector was trained. MissingWeightsError."""
        vlm = self.vlm or VlmConfig()
        refiner = vlm.open(journal)
        reflecting = self._reflecting
        return VlmCritic(refiner if reflecting == vlm else reflecting.open(journal), refiner, self)


def reflecting_vlm(reflector: str, own: VlmConfig | None, otherwise: VlmConfig) -> VlmConfig:
    """Who reflects. reflector: a model's name, or "". own: how it is reached, or None for as `otherwise` is."""
    vlm = own or otherwise
    return vlm.of_model(reflector) if reflector else vlm


class VlmCritic:
    """See `inference.search.Critic`. First all reflections, then all refined prompts, which may see them."""

    def __init__(self, reflector: Vlm, refiner: Vlm, config: VlmCriticConfig) -> None:
        self._reflector, self._refiner = reflector, refiner
        self._reflect, self._refine = load_prompt(config.reflect), load_prompt(config.refine)
        self._keep_words = config.keep_words

    def remark(
        self,
        images: Sequence[np.ndarray],
        prompts: Sequence[str],
        current: Sequence[str],
        scores: Sequence[float],
        *,
        reflect: bool,
        refine: bool,
    ) -> list[Remark]:
        """A reflection and a refined prompt for each image; where an answer is empty or was cut off, none and the
        current prompt, which also stays where the refined one is turned down. A reflection that is not used is asked
        for where the refiner is shown it."""
        known = [
            {"prompt": prompt, "current": now, "score": f"{score:.2f}"}
            for prompt, now, score in zip(prompts, current, scores, strict=True)
        ]
        costs, said, better = [Cost()] * len(images), [""] * len(images), [""] * len(images)
        if reflect or (refine and "{reflection}" in self._refine):
            said, costs = _ask(self._reflector, self._reflect, known, images, costs)
        if refine:
            told = [{**k, "reflection": text} for k, text in zip(known, said, strict=True)]
            better, costs = _ask(self._refiner, self._refine, told, images, costs)
            if self._keep_words:
                better = [text if keeps_words(k["prompt"], text) else "" for k, text in zip(known, better, strict=True)]
        return [
            Remark(reflection, refined or now, cost)
            for reflection, refined, now, cost in zip(said, better, current, costs, strict=True)
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
) -> tuple[list[str], list[Cost]]:
    """The answers' texts ("" for one that was cut off), and what was spent so far and on them."""
    answers = vlm.answer([ChatRequest(_filled(template, k), (image,)) for k, image in zip(known, images, strict=True)])
    texts = [answer.text if answer.finished else "" for answer in answers]
    return texts, [spent + Cost(vlm_calls=1) + answer.tokens for spent, answer in zip(costs, answers, strict=True)]


def _filled(template: str, known: dict[str, str]) -> str:
    return fill_prompt(template, **{name: value for name, value in known.items() if "{" + name + "}" in template})
