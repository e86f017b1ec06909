"""Who reads what a free prompt asks for: a VLM, once for each prompt, into clauses and questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from inference.interfaces import ChatRequest, Vlm
from inference.requirements.read_answer import answer_schema, read_answer, show_question
from inference.vlm.asking import Asked, ask_until_read
from inference.vlm.endpoint import Journal
from inference.vlm.prompts import fill_prompt, load_prompt
from inference.vlm.vlm import VlmConfig
from schemas.configuration import template_field
from schemas.errors import InputError
from schemas.foreign_json import BadValue, safe_text
from schemas.records import Cost, PromptRecord, RequirementSource

MAX_NOTE_CHARS = 200


@dataclass(frozen=True)
class RequirementsConfig:
    """Whether a model reads what free prompts ask for, and which."""

    kind: Literal["none", "whole", "vlm"] = "none"
    """none: what a prompt's file or its words say, and nothing else. Of prompts that say nothing in either, whole: each
    is one question, whether the image shows it; vlm: a VLM reads them, once each, into objects and questions."""
    vlm: VlmConfig | None = None
    """The run's VLM, unless the reader has one of its own."""
    prompt: str = template_field("requirements")
    """Template with {prompt}: a name in inference/prompts, or a file."""
    max_attempts: int = 3
    """Tries for an answer that reads; then there is one question, on the whole prompt."""

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise InputError(f"{self.max_attempts}", field="requirements.max_attempts", expected="at least 1")

    def only_what_is_used(self, vlm: VlmConfig) -> RequirementsConfig:
        """`vlm` is who is asked where no other is named."""
        return replace(self, vlm=self.vlm or vlm) if self.kind == "vlm" else RequirementsConfig()

    def told(self, record: PromptRecord) -> PromptRecord:
        """A prompt that says nothing with one question on all of it, where that is asked for; others as they are."""
        return _with(record, _whole(record.text)) if self.kind == "whole" and record.is_free else record

    def open(self, journal: Journal | None = None) -> RequirementsReader | None:
        """Load the VLM; None where none reads. MissingWeightsError, InputError."""
        if self.kind != "vlm":
            return None
        return RequirementsReader((self.vlm or VlmConfig()).open(journal), load_prompt(self.prompt), self.max_attempts)


@dataclass(frozen=True)
class RequirementsReader:
    """A VLM and the words that it is asked in. template: with {prompt}."""

    vlm: Vlm
    template: str
    max_attempts: int = 3


def read_requirements(reader: RequirementsReader, records: Sequence[PromptRecord]) -> list[tuple[PromptRecord, Cost]]:
    """Each record with what it asks for, and what reading that cost; those that say so already, as they are, at no
    cost. Records of one text are read once, which the first of them pays for.

    A prompt of which no answer reads, or that asks for nothing which could be named, gets one question, on all of it,
    and a note that says why.
    """
    texts = list(dict.fromkeys(record.text for record in records if record.is_free))
    requests = [ChatRequest(fill_prompt(reader.template, prompt=text), json_schema=answer_schema()) for text in texts]
    problems = [""] * len(texts)

    def read(index: int, answer: str) -> PromptRecord | None:
        try:
            return read_answer(answer, texts[index])
        except BadValue as bad:
            problems[index] = f"{bad.field}: {bad.problem}" if bad.field else bad.problem
            return None

    asked = ask_until_read(reader.vlm, requests, read, reader.max_attempts) if requests else []
    found = {
        text: (_whole(text, _why(one, problem, reader.max_attempts)) if one.value is None else one.value, one.cost)
        for text, one, problem in zip(texts, asked, problems, strict=True)
    }
    read_already: set[str] = set()
    done = []
    for record in records:
        if not record.is_free:
            done.append((record, Cost()))
            continue
        told, cost = found[record.text]
        done.append((_with(record, told), Cost() if record.text in read_already else cost))
        read_already.add(record.text)
    return done


def _with(record: PromptRecord, told: PromptRecord) -> PromptRecord:
    return replace(
        record,
        include=told.include,
        exclude=told.exclude,
        questions=told.questions,
        requirements_from=told.requirements_from,
        requirements_note=told.requirements_note,
    )


def _whole(text: str, why: str | None = None) -> PromptRecord:
    return PromptRecord(
        "prompt",
        text,
        "rule",
        questions=(show_question(text),),
        requirements_from=RequirementSource.FALLBACK.value,
        requirements_note=why,
    )


def _why(asked: Asked[PromptRecord], problem: str, attempts: int) -> str:
    """Why none of the answers was used, by the last one."""
    tries = "its answer cannot be used" if attempts == 1 else f"none of its {attempts} answers can be used"
    why = "cut off before its end" if asked.was_cut_off else problem
    return safe_text(f"the VLM was asked what this prompt requires, and {tries}: {why}", MAX_NOTE_CHARS)
