"""What a right image shows, said in plain statements, as questions: by template, from the easiest on.

"There is a light bulb. The bulb is dark." -> "Is there a light bulb?", "Is the bulb dark?". A noun that stands behind
"without" or "no", or in what is about to be or has been, is nothing that the image shows: no question is made of it
alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from inference.dual.concept import QuestionAnswer
from inference.dual.questions import LOOK, OBJECT, PLACE, WHOLE, bare, show_question, stairs
from inference.known_classes import known_classes
from inference.prompt_grammar import COLORS, NUMBERS, parse_prompt
from schemas.errors import InputError
from schemas.records import ObjectClause

MAX_STATEMENTS = 8
MAX_CHARS = 200  # of one
_NOTHING = ("yes", "no", "none", "nothing", "unknown", "true", "false", "ok", "okay")
_OTHERWISE = re.compile(
    r"\b(?:no|not|never|without|none|nobody|nothing|neither|nor|cannot|lack(?:s|ing)?|missing|absent|instead|rather"
    r"|unlike|about to|going to|will|would|could|should|may|might|used to|(?:has|have|had) (?:just |already )?been|was"
    r"|were|once|before|after|until|almost|nearly|former(?:ly)?)\b|n['’]t\b",
    re.IGNORECASE,
)
"""Words of what is not there, or not now."""
_SHOWS = re.compile(r"(?:an?|the|a right|this) (?:image|picture|photo|photograph|scene) (?:shows|depicts) (?=\S)", re.I)
_LABEL = re.compile(r"[^\W\d][\w ,'’/()?-]{0,40}: (?=\S)")
_LEFT_OUT = re.compile(r"\b(?:just|directly|immediately) (?=above|below|left|right)")
_ANY = re.compile(r"there (is|are) (?:no|not an?y?) (.+)", re.IGNORECASE)
_THERE = re.compile(r"there (is|are) (.+)", re.IGNORECASE)
_IS = re.compile(r"(.+?) (is|are)( not|n['’]t)? (.+)|(.+?) (is|are)(n['’]t) (.+)", re.IGNORECASE)
_SUBORDINATE = re.compile(r"\b(?:is|are|who|which|that|whose|where|while|when|if|because)\b|[,;:]", re.IGNORECASE)
_BEHIND_NOUN = re.compile(
    r"is|are|and|or|of|in|on|at|by|with|to|from|that|which|who|above|below|under|over|left|right|beside|between|behind"
    r"|near|next|inside|outside|around|against|across|through|just|directly|high|low|side|stacked|\w+ing|\W"
)


def described_questions(prompt: str, description: str) -> tuple[QuestionAnswer, ...]:
    """Questions about a prompt of which a description says what it shows: its parts, the easiest first, and last the
    prompt itself. InputError for a description that states nothing."""
    found: dict[str, tuple[int, QuestionAnswer]] = {}
    said = statements(description)
    if not said:
        raise InputError(f"nothing is stated by {description[:80]!r}", field="description", expected='"a green heart"')
    for statement in said:
        for step, asked in _questions(statement):
            found.setdefault(asked.question.lower(), (step, asked))
    in_order = [asked for _, asked in sorted(found.values(), key=lambda one: one[0])]
    whole = show_question(prompt)
    return (*(asked for asked in in_order if asked.question.lower() != whole.question.lower()), whole)


def statements(text: str) -> list[str]:
    """The first few sentences of a text, without numbering and labels; what asks, or says nothing, is passed over."""
    found: dict[str, None] = {}
    for sentence in re.split(r"(?<=[.!?;。！？])\s*(?=\S)|\n+", text):
        said = re.sub(r"^\s*(?:[-*•]|\(?\d{1,2}[.)])\s+", "", sentence).strip()
        while before := _LABEL.match(said) or _SHOWS.match(said):
            said = said[before.end() :]
        if said.endswith(("?", "？", ":", "：")) or len(said) > MAX_CHARS:
            continue
        for one in map(bare, _listed(said.strip(' .;!"“”'))):
            if re.search(r"[^\W\d_]", one) and one.lower() not in _NOTHING:
                found[one] = None
    return list(found)[:MAX_STATEMENTS]


def _listed(said: str) -> list[str]:
    """ "a lamp, a desk" -> each; anything else ("a blue, a red square", "a pen, which is bent") as it is."""
    pieces = [piece.split() for piece in re.split(r",\s*(?:and )?", said)]
    are_things = all(
        len(words) > 1 and words[0].lower() in NUMBERS and words[-1].lower() not in COLORS for words in pieces
    )
    return [" ".join(words) for words in pieces] if are_things else [said]


def _questions(statement: str) -> list[tuple[int, QuestionAnswer]]:
    """Of one statement, with their steps."""
    if denied := _ANY.fullmatch(statement):
        return [(LOOK, QuestionAnswer(f"{denied[1].capitalize()} there any {denied[2]}?", "No"))]
    there = _THERE.fullmatch(statement)
    phrase = there[2] if there else statement
    try:
        return _yes(stairs(parse_prompt(_LEFT_OUT.sub("", phrase)).include))
    except InputError:
        named = [] if _OTHERWISE.search(phrase) else objects_named(phrase)
        parts = _yes(stairs([clause for _, clause in named]))
    if there:
        step = OBJECT if len(phrase.split()) <= 3 and not parts else PLACE
        return [*parts, (step, QuestionAnswer(f"{there[1].capitalize()} there {phrase}?"))]
    if (said := _IS.fullmatch(statement)) and not _SUBORDINATE.search(said[4] or said[8]):
        subject, verb, denial, rest = said.groups()[:4] if said[1] else said.groups()[4:]
        is_plain = not _SUBORDINATE.search(subject) and not _OTHERWISE.search(subject)
        if is_plain:
            asked = f"{verb.capitalize()} {subject} {rest}?"
            return [*parts, (LOOK, QuestionAnswer(asked, "No" if denial else "Yes"))]
    begins_with_object = named and named[0][0] == 0
    if begins_with_object or (len(statement.split()) <= 3 and statement.split()[0] in NUMBERS):
        return [*parts, (PLACE, show_question(statement))]
    return [*parts, (WHOLE, QuestionAnswer(f"Does the image show: {statement}?"))]


def _yes(asked: Sequence[tuple[int, str]]) -> list[tuple[int, QuestionAnswer]]:
    return [(step, QuestionAnswer(question)) for step, question in asked]


def objects_named(text: str) -> list[tuple[int, ObjectClause]]:
    """The known objects that words name with an article or a number before them, one describing word and a colour at
    most between, and the noun's end behind: "a small red ball on the table" names a ball and "a dog house" nothing.
    Each with the number of the word at which it begins."""
    words, found = re.findall(r"[\w'’-]+|[^\w\s]", text.lower()), []
    for start, word in enumerate(words):
        if word not in NUMBERS:
            continue
        for skipped in (1, 2):
            at = start + skipped
            if at >= len(words) or (skipped == 2 and _BEHIND_NOUN.fullmatch(words[at - 1])):
                break
            color = words[at] if at + 1 < len(words) and words[at] in COLORS else None
            named = _class_at(words, at + 1 if color else at, NUMBERS[word]) or (
                _class_at(words, at, NUMBERS[word]) if color else None
            )
            if named is not None:
                found.append((start, ObjectClause(named, NUMBERS[word], color)))
                break
    return found


def _class_at(words: Sequence[str], at: int, count: int) -> str | None:
    """The class whose name begins there, the longest one, where a noun can end behind it."""
    known = known_classes()
    for length in (3, 2, 1):
        noun, behind = words[at : at + length], words[at + length : at + length + 1]
        name = known.of_one(" ".join(noun)) if count == 1 else known.of_several(" ".join(noun))
        if len(noun) == length and name is not None:
            return name if not behind or _BEHIND_NOUN.fullmatch(behind[0]) else None
    return None
