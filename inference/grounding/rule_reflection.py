"""The rule subset's reflections: what a check found wrong, as instructions (ReflectionFlow, rule-based GenRef)."""

from __future__ import annotations

from collections import Counter

from inference.grounding.reasons import Failure, FailureKind, parse_reason
from schemas.records import Check, ObjectClause, PromptRecord

NUMBER_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def write_reflection(prompt: PromptRecord, good: Check, bad: Check) -> str:
    """Imperative sentences that say how to get from the bad image to the good one.

    Only what the bad image's check found is mentioned, and of that only what the good image does better (all of it,
    where the good image fails in the same ways). "" where the check found nothing wrong with the bad image.
    """
    failures = [parse_reason(line) for line in bad.reasons]
    remaining = {_requirement(parse_reason(line)) for line in good.reasons}
    told = [f for f in failures if _requirement(f) not in remaining] or failures
    return " ".join(_instruction(prompt, failure) for failure in told)


def _requirement(failure: Failure) -> tuple[object, ...]:
    """What the prompt asked for, whatever was found instead."""
    f = failure
    kind = FailureKind.RELATION if f.kind is FailureKind.NO_TARGET else f.kind
    return kind, f.class_name, f.count, f.color, f.relation, f.target


def _instruction(prompt: PromptRecord, failure: Failure) -> str:
    match failure.kind:
        case FailureKind.MISSING:
            return _add(prompt, failure)
        case FailureKind.COLOR:
            return _recolor(failure)
        case FailureKind.RELATION:
            return f"Move {_definite(prompt, failure, subject=True)} {_place(prompt, failure)}."
        case FailureKind.NO_TARGET:
            return f"Place {_definite(prompt, failure, subject=True)} {_place(prompt, failure)}."
        case FailureKind.TOO_MANY:
            return removal(failure.class_name, failure.count - 1, failure.num_found)


def _add(prompt: PromptRecord, failure: Failure) -> str:
    clause = _find_clause(prompt, failure.class_name, failure.count)
    name = " ".join(w for w in (clause.color, failure.class_name) if w)
    where = ""
    if clause.relation is not None and clause.relative_to is not None:
        target = prompt.include[clause.relative_to]
        described = Failure(FailureKind.RELATION, name, relation=clause.relation, target=target.class_name)
        where = f" {_place(prompt, described)}"
    return addition(name, failure.count, failure.num_found, where)


def addition(name: str, count: int, found: int, where: str = "") -> str:
    """What is missing of `count` objects. where: with a blank before it, or empty."""
    missing = count - found
    if found == 0:
        return f"Add {counted(missing, name)}{where}."
    more = f"{number_word(missing)} more {name if missing == 1 else plural(name)}"
    return f"Add {more}{where} so that there are {number_word(count)}."


def _recolor(failure: Failure) -> str:
    assert failure.color is not None
    name, wanted = failure.class_name, failure.color
    sentences = []
    for color, number in Counter(c for c in failure.found_colors if c != wanted).items():
        if color == "unknown":
            sentences.append(f"Make the {name if number == 1 else plural(name)} {wanted}.")
        elif number == 1:
            which = "the" if failure.found_colors.count(color) == 1 else "one"
            sentences.append(f"Replace {which} {color} {name} by {counted(1, f'{wanted} {name}')}.")
        else:
            old, new = plural(f"{color} {name}"), plural(f"{wanted} {name}")
            sentences.append(f"Replace the {number_word(number)} {old} by {number_word(number)} {new}.")
    return " ".join(sentences)


def removal(name: str, allowed: int, found: int) -> str:
    """Those beyond what is allowed."""
    surplus = found - allowed
    if allowed == 0:
        return f"Remove the {name}." if surplus == 1 else f"Remove all {number_word(surplus)} {plural(name)}."
    verb = "is" if allowed == 1 else "are"
    what = f"{number_word(surplus)} {name if surplus == 1 else plural(name)}"
    return f"Remove {what} so that there {verb} {number_word(allowed)}."


def _place(prompt: PromptRecord, failure: Failure) -> str:
    assert failure.relation is not None
    target = _definite(prompt, failure, subject=False)
    side = failure.relation.removesuffix(" of")
    return f"to the {side} of {target}" if failure.relation.endswith(" of") else f"{side} {target}"


def _definite(prompt: PromptRecord, failure: Failure, *, subject: bool) -> str:
    """ "the red circle", "the circles": the class with what the prompt says of its colour and number."""
    for clause in prompt.include:
        if clause.relation != failure.relation or clause.relative_to is None:
            continue
        target = prompt.include[clause.relative_to]
        if failure.class_name.endswith(clause.class_name) and target.class_name == failure.target:
            chosen = clause if subject else target
            name = " ".join(w for w in (chosen.color, chosen.class_name) if w)
            return f"the {name if chosen.count == 1 else plural(name)}"
    return f"the {failure.class_name if subject else failure.target}"


def _find_clause(prompt: PromptRecord, class_name: str, count: int) -> ObjectClause:
    for clause in prompt.include:
        if (clause.class_name, clause.count) == (class_name, count):
            return clause
    return ObjectClause(class_name, count)


def plural(name: str) -> str:
    """English plural of a class name, by spelling ("crosses", "toothbrushes", "knives")."""
    irregular = {"person": "people", "knife": "knives", "mouse": "mice", "sheep": "sheep", "skis": "skis"}
    head, _, last = name.rpartition(" ")
    if last in irregular:
        last = irregular[last]
    elif last.endswith(("s", "x", "sh", "ch")):
        last += "es"
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        last = last[:-1] + "ies"
    else:
        last += "s"
    return f"{head} {last}".strip()


def counted(number: int, name: str) -> str:
    """ "a star", "two stars"."""
    if number == 1:
        return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
    return f"{number_word(number)} {plural(name)}"


def number_word(number: int) -> str:
    """In letters up to ten."""
    return NUMBER_WORDS[number] if number < len(NUMBER_WORDS) else str(number)
