"""Values out of JSON that someone else wrote: parsed strictly, checked one by one, quoted safely in messages."""

import difflib
import json
import re
from collections.abc import Iterable
from typing import Any, NoReturn

from schemas.absent import is_absent

# Control characters (tab and newline included), Unicode line separators, and halves of surrogate pairs.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SURROUNDING = " \t\r\n\ufeff"
# Tabs and line breaks, with the spaces about them. A carriage return alone is none: it may end a line of a file whose
# lines were never told apart.
_BREAKS = re.compile(" *(?:\r\n|[\t\n\x85\u2028\u2029])(?:\r\n|[ \t\n\x85\u2028\u2029])*")


class BadValue(Exception):
    """One value that does not fit. Whoever knows the file and the line turns it into an `InputError` or a `BadRow`."""

    def __init__(self, problem: str, field: str | None = None, expected: str | None = None) -> None:
        super().__init__(problem)
        self.problem, self.field, self.expected = problem, field, expected


def safe_text(text: str, max_chars: int = 200) -> str:
    """`text` cut to `max_chars`, what no file or terminal takes replaced by U+FFFD; always valid UTF-8."""
    cut = _UNSAFE.sub("\ufffd", text[:max_chars])
    return cut if len(text) <= max_chars else cut[:-1] + "…"


def quote(value: object) -> str:
    """A value as one short safe word of a message."""
    return safe_text(repr(value), 80)


def near_matches(word: str, choices: Iterable[str]) -> str:
    """`"; did you mean 'cat' or 'car'?"`, or nothing."""
    close = difflib.get_close_matches(word[:100], list(choices), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(name) for name in close)}?" if close else ""


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadValue(f"the key {quote(twice)} occurs twice in one object", twice, "each key once")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise BadValue(f"{name} is no JSON", expected="finite numbers")


def parse_json(text: str) -> Any:
    """JSON with unique keys and finite numbers. Raises BadValue otherwise."""
    try:
        return json.loads(text, object_pairs_hook=_refuse_duplicates, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        # The first line of a file of its own is the caller's line: the column is what helps there.
        place = f"line {error.lineno} column {error.colno}" if "\n" in text.strip() else f"column {error.colno}"
        raise BadValue(f"not valid JSON: {error.msg} at {place}") from None
    except RecursionError:
        raise BadValue("not usable JSON: nested too deeply") from None
    except ValueError as error:  # an integer of thousands of digits
        raise BadValue(f"not usable JSON: {safe_text(str(error), 100)}") from None


def check_text(value: object, field: str, max_chars: int) -> str:
    """A non-empty string without control characters or broken Unicode, surrounding white space removed, tabs and line
    breaks as spaces."""
    expected = f"text of 1 to {max_chars} characters"
    if not isinstance(value, str):
        raise BadValue(f"{quote(value)} is no text", field, expected)
    text = _BREAKS.sub(" ", value.strip(_SURROUNDING))
    if not text.strip():
        raise BadValue(f"the {field} is empty", field, expected)
    if len(text) > max_chars:
        raise BadValue(f"the {field} has {len(text)} characters", field, expected)
    if (unsafe := _UNSAFE.search(text)) is not None:
        code = ord(unsafe.group())
        kind = "half of a surrogate pair" if 0xD800 <= code <= 0xDFFF else "control character"
        problem = f"{kind} U+{code:04X} at character {unsafe.start() + 1} of the {field}"
        raise BadValue(problem, field, "text without control characters, valid as UTF-8")
    return text


def check_int(value: object, field: str, low: int, high: int) -> int:
    """A whole number in [low, high]; true, 2.0 and "2" are none."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise BadValue(f"{quote(value)} is not allowed here", field, f"a whole number from {low} to {high}")
    return value


def check_choice(value: object, field: str, choices: Iterable[str]) -> str:
    """One of a few words."""
    words = list(choices)
    if not isinstance(value, str) or value not in words:
        hint = near_matches(value, words) if isinstance(value, str) else ""
        raise BadValue(f"{quote(value)} is not known{hint}", field, "one of " + ", ".join(words))
    return value


def check_keys(value: object, field: str, keys: tuple[str, ...]) -> dict[str, Any]:
    """An object that has no keys but these; keys whose value is absent (null, NaN, "N/A") are dropped."""
    if not isinstance(value, dict):
        raise BadValue(f"{quote(value)} is no object", field, "an object with " + ", ".join(keys))
    for key in value:
        if key not in keys:
            raise BadValue(
                f"unknown key {quote(key)}{near_matches(str(key), keys)}",
                field,
                "an object with " + ", ".join(keys),
            )
    return {key: item for key, item in value.items() if not is_absent(item)}
