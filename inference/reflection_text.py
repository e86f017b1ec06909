"""How a reflector's answer is read: the sentence itself, whether there is one, and whether it finds nothing to correct.

A reflector that finds nothing to correct has judged the image; one whose answer is empty has failed. Nobody may take
the one for the other.
"""

from __future__ import annotations

import re

from inference.vlm.clean_text import Said, clean_text

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


def reflection_of(answer: str) -> Said:
    """The sentences of an answer, or why they are no reflection; that there is nothing to correct is one."""
    said = clean_text(answer)
    return Said(said.text) if _finds_nothing(said.text) else said


def is_empty(answer: str) -> bool:
    """Whether an answer holds no reflection: no word, a refusal, nothing but reasoning."""
    return reflection_of(answer).problem is not None


def nothing_to_correct(answer: str) -> bool:
    """Whether all that a reflection says is that nothing is to be corrected, in the words that reflectors use for it:
    "The image is right", "no correction needed.", {"reflection": "Nothing to correct"}. An empty one says nothing."""
    return _finds_nothing(clean_text(answer).text)


def is_one_sentence(reflection: str) -> bool:
    """Whether a reflection says one thing alone."""
    return len(re.split(r"(?<=[.!?])\s+", reflection.strip())) == 1 and bool(reflection.strip())


def _finds_nothing(text: str) -> bool:
    clauses = [
        re.sub(r"[^\w\s]", " ", clause).split() for clause in re.split(r"[.;,!]+|\s[-\u2013\u2014]\s", text.lower())
    ]
    told = [" ".join(words) for words in clauses if words]
    return bool(told) and all(re.fullmatch(_NOTHING, clause, re.VERBOSE) for clause in told)
