"""Prompts that no verdict can be given for: found before anything is drawn, and refused, or counted apart.

A judge looks for the classes and colours that its models know. An image of anything else is wrong to it whatever it
shows, and one of a prompt that requires nothing is right: such verdicts would only falsify a score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from inference.judges.known_words import KnownWords
from schemas.errors import InputError
from schemas.foreign_json import near_matches, quote, safe_text
from schemas.records import PromptRecord, RequirementSource

Unjudged = Literal["refuse", "count"]
NUM_EXAMPLES = 3
_OR_ELSE = (
    "; or `--unjudged count`: they are left out of the score and counted apart; or `--judge.kind questions`: a VLM "
    "judges any prompt; or, in a search, `--judge.kind none`"
)


@dataclass(frozen=True)
class Asked:
    """A prompt and where it stands, as far as that is known."""

    record: PromptRecord
    file: str | None = None
    line: int | None = None

    @property
    def place(self) -> str:
        """For people; empty for a prompt of no file."""
        return "" if self.file is None else f" ({self.file}{'' if self.line is None else f':{self.line}'})"


@dataclass(frozen=True)
class Unjudgeable:
    """Why no verdict can be given, in which field, and what would do."""

    problem: str
    field: str
    expected: str


def why_not_judged(prompt: PromptRecord, known: KnownWords) -> Unjudgeable | None:
    """Why a judge who knows these words cannot judge images of a prompt; None where it can. What a VLM read in a prompt
    is no ground to judge by, and clauses beside questions are only a part of what is asked for."""
    if prompt.requirements_from == RequirementSource.VLM:
        return Unjudgeable("a VLM said what it requires", "include", "GenEval's tag and include beside it")
    if not prompt.include and not prompt.exclude:
        expected = "GenEval's tag and include beside it, or a text in one of its forms"
        is_asked_whole = prompt.requirements_from == RequirementSource.FALLBACK
        said = "it says what must be seen in questions alone" if prompt.questions and not is_asked_whole else ""
        return Unjudgeable(said or "nothing is said of what must be seen", "include", expected)
    if prompt.questions:
        return Unjudgeable("some of what must be seen is said in questions", "questions", "include and exclude alone")
    unknown = known.unknown_in(prompt)
    if unknown is None:
        return None
    words = sorted((known.classes if unknown.kind == "class" else known.colors) or ())
    some = ", ".join(words[:8]) + (" …" if len(words) > 8 else "")
    problem = f"unknown {unknown.kind} {quote(unknown.word)}{near_matches(unknown.word, words)}"
    return Unjudgeable(problem, unknown.field, f"one of the {len(words)} known: {some}")


def count_unjudged(
    prompts: Sequence[Asked],
    known: KnownWords | None,
    judge: str,
    unjudged: Unjudged | None = None,
    or_else: str = "",
) -> int:
    """How many of the prompts a judge cannot judge. InputError with three of them, file and line of the first, unless
    they are to be counted (`unjudged`; None: that cannot be asked for). known: None for a judge who can be asked about
    anything. judge: who that is, for people; or_else: what else they may do."""
    if known is None:
        return 0
    found = [(one, why) for one in prompts if (why := why_not_judged(one.record, known)) is not None]
    if not found or unjudged == "count":
        return len(found)
    examples = "; ".join(
        f"{quote(safe_text(one.record.text, 80))}{one.place}: {why.problem}" for one, why in found[:NUM_EXAMPLES]
    )
    first, why = found[0]
    counted = _OR_ELSE if unjudged else ""
    raise InputError(
        f"{len(found)} of {len(prompts)} prompts cannot be judged by {judge}: {examples}"
        + (f"; and {len(found) - NUM_EXAMPLES} more" if len(found) > NUM_EXAMPLES else ""),
        file=first.file,
        line=first.line,
        field=why.field,
        expected=why.expected + counted + or_else,
    )
