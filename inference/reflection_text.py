"""How a reflector's answer is read: the sentence itself, whether there is one, and whether it finds nothing to correct.

A reflector that finds nothing to correct has judged the image; one whose answer is empty has failed. Nobody may take
the one for the other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

_CHANGE = r"(?:correct(?:ion|ed)?|chang(?:e|ed|ing)|improv(?:e|ed|ement|ing)|fix(?:ed|ing)?|edit(?:ed|ing)?"
_CHANGE += r"|modif(?:y|ied|ication)|adjust(?:ed|ment)?|revis(?:e|ed|ion)|instruction)s?"
_PICTURE = r"(?:(?:(?:the|this)\ )?(?:image|picture|photo|drawing)|it|everything|all)"
_NOTHING = rf"""(?:and|so|there\ is|there\ are|as)?\s*(?:
      none (?:\ needed)?
    | nothing (?:\ is|\ needs|\ more|\ else|\ here)* (?:\ wrong|\ missing|\ to(?:\ be)?\ {_CHANGE}|\ {_CHANGE})
    | no (?:\ further|\ other|\ more)? \ (?:{_CHANGE}|reflection|problem|error|mistake|flaw|issue)s?
      (?:\ (?:is|are|was|were))? (?:\ (?:needed|required|necessary|found|to\ {_CHANGE}))?
    | {_PICTURE}\ (?:is|looks)(?:\ already|\ all)?\ (?:right|correct|fine|good|perfect|accurate)(?:\ as\ it\ is)?
    | {_PICTURE}\ (?:already\ )?(?:matches|fits|follows|meets|shows)\ (?:the\ prompt|what\ (?:was|is)\ asked\ for)
      (?:\ (?:perfectly|exactly|well|already))?
    | {_PICTURE}\ needs\ no\ {_CHANGE}
    )"""
"""One clause, in small letters, words one blank apart (a verbose pattern; `re` compiles it once it is needed)."""


def reflection_in(text: str) -> str:
    """The sentences of an answer: what stands in its JSON, where it is JSON (in a code fence or not), else the text as
    it is, without the white space around it."""
    text = text.strip()
    try:
        said = json.loads(re.sub(r"^```\w*\s*|\s*```$", "", text))
    except (ValueError, RecursionError):
        return text
    if not isinstance(said, (str, list, dict)):
        return text
    return " ".join(" ".join(_strings(said)).split())


def is_empty(text: str) -> bool:
    """Whether an answer says nothing at all: no word, or a JSON of none."""
    return re.search(r"\w", reflection_in(text)) is None


def nothing_to_correct(text: str) -> bool:
    """Whether all that a reflection says is that nothing is to be corrected, in the words that reflectors use for it:
    "The image is right", "no correction needed.", {"reflection": "Nothing to correct"}. An empty one says nothing."""
    said = re.sub(r"^\W*(?:reflection|answer|instructions?|correction)\s*:\s*", "", reflection_in(text).lower())
    clauses = [re.sub(r"[^\w\s]", " ", clause).split() for clause in re.split(r"[.;,!\n]+|\s[-\u2013\u2014]\s", said)]
    told = [" ".join(words) for words in clauses if words]
    return bool(told) and all(re.fullmatch(_NOTHING, clause, re.VERBOSE) for clause in told)


def _strings(said: Any) -> Iterator[str]:
    """The texts in plain data, in order; of an object with keys that name the reflection, theirs alone."""
    if isinstance(said, str):
        yield said
    elif isinstance(said, dict):
        named = [value for key, value in said.items() if re.search("reflect|instruct|correct", str(key).lower())]
        for value in named or said.values():
            yield from _strings(value)
    elif isinstance(said, list):
        for value in said:
            yield from _strings(value)
