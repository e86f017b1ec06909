"""What the micro models can be asked for: whoever names other things is told so, for they would draw noise."""

from __future__ import annotations

import re

from inference.dual.questions import bare
from inference.known_classes import classes_named
from inference.prompt_grammar import parse_prompt
from microworld.scenes.captions import COUNT_WORDS, RELATIONS, VOCABULARY, class_plural
from microworld.scenes.concepts import CONCEPTS
from microworld.scenes.world import COLORS, SHAPES
from schemas.errors import InputError
from schemas.plain_text import one_line

KNOWS = (
    f"{', '.join(SHAPES)}; {', '.join(COLORS)}; {', '.join(COUNT_WORDS.values())}; {', '.join(RELATIONS)}: "
    '"a photo of two red circles", "a photo of a star left of a ring"'
)
_PIECES = re.compile(r"\[reflexion\]|[a-z]+|[0-9]|[^\sa-z0-9]")  # as the micro tokenizers split
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_SHAPES = classes_named((shape, class_plural(shape)) for shape in SHAPES)
_FIRST = "a photo of "
_SHOWN = 5


def why_not_known(text: str) -> str | None:
    """Why no image can be drawn of a text, in words: its own that are in no model's vocabulary, or no shape at all.
    None where one can. Punctuation is read over."""
    words = _WORD.findall(text.lower())
    known = {*VOCABULARY, "'", "’", "-"}
    unknown = list(dict.fromkeys(word for word in words if not known.issuperset(_PIECES.findall(word))))
    if unknown:
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        return f"do not know {', '.join(repr(word[:40]) for word in unknown[:_SHOWN])}{more}"
    if not any(_SHAPES.of_one(word) or _SHAPES.of_several(word) for word in words):
        return f"draw shapes alone, and {one_line(text)[:80]!r} names none"
    return None


def why_not_understood(text: str) -> str | None:
    """Why the micro VLM cannot say what a text means: it was told of one word at a time. None where it can."""
    words = [word for word in _WORD.findall(bare(text).lower()) if word not in ("a", "an", "the")]
    if len(words) == 1 and words[0] in CONCEPTS:
        return None
    return f"were told what single words mean ({', '.join(CONCEPTS)}), and {one_line(text)[:80]!r} is none of them"


def as_learnt(text: str) -> str:
    """A prompt that asks for what captions ask for, as captions say it; any other text as it is. Without "a photo of"
    before it, "two green hearts" is right 6 times of 16, and 13 times with it."""
    words = " ".join(text.lower().strip(" .!").split())
    if words.startswith(_FIRST):
        return text
    try:
        parse_prompt(words, known=_SHAPES)
    except InputError:
        return text
    return _FIRST + words
