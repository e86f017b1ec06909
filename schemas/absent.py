"""What is absent: null, NaN (pandas' null), and the words that tables and models write for them. Absent is absent, in
every file of a user's: never the text "None", never a score of NaN."""

from __future__ import annotations

import math
from typing import Any

_WORDS = frozenset(["null", "none", "nil", "nan", ".nan", "nat", "n/a", "na", "#n/a", "<na>", "<null>", "undefined"])


def is_absent_word(text: str) -> bool:
    """Whether a text is empty, or a word for that there is none ("null", "N/A", "nan")."""
    said = text.strip(" \t\r\n\u00a0\ufeff\"'").lower()
    return not said or said in _WORDS


def is_absent(value: Any) -> bool:
    """Whether a value of JSON or of a table is none: null, NaN, a word for it."""
    if isinstance(value, str):
        return is_absent_word(value)
    return value is None or (isinstance(value, float) and math.isnan(value))


def score_of(value: Any) -> float | None:
    """A number, or a text that is one; None where it is absent. ValueError for anything else, infinity included."""
    if is_absent(value):
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"{str(value)[:40]!r} is no number")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise ValueError(f"{str(value)[:40]!r} is no number") from None
    if not math.isfinite(number):
        raise ValueError(f"{str(value)[:40]!r} is no finite number")
    return number
