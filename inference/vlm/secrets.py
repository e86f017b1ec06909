"""Keys and passwords of endpoints stand in nothing that is written: no answer, no error, no log of any library.

The one place that knows them. Whoever reads a secret from the environment calls `guard`; whatever came from a server
passes `hide` before it is kept, and every log record of the process does.
"""

from __future__ import annotations

import logging
import traceback
from typing import Any

_SHORTEST = 6  # shorter ones ("none", "EMPTY") are no secrets, and would be cut out of ordinary words
_HIDDEN = "[hidden]"
_secrets: tuple[str, ...] = ()


def guard(secret: str) -> None:
    """From now on it is hidden."""
    global _secrets
    if len(secret) < _SHORTEST or secret in _secrets:
        return
    if not _secrets:
        _guard_logs()
    _secrets = tuple(sorted((*_secrets, secret), key=len, reverse=True))


def hide(text: str) -> str:
    """The text without secrets."""
    for secret in _secrets:
        text = text.replace(secret, _HIDDEN)
    return text


def hide_in(error: BaseException) -> None:
    """Take secrets out of an error's words, and of those that led to it, since tracebacks are kept too."""
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        seen.append(current)
        current.args = tuple(hide(one) if isinstance(one, str) else one for one in current.args)
        for name in ("message", "problem", "doc"):  # of openai's errors, ours, and JSON's
            if isinstance(said := getattr(current, name, None), str):
                setattr(current, name, hide(said))
        if hasattr(current, "body"):
            current.body = None  # pyright: ignore[reportAttributeAccessIssue]
        current = current.__cause__ or current.__context__


def _guard_logs() -> None:
    make = logging.getLogRecordFactory()

    def make_hidden(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        try:
            said = record.getMessage()
        except (TypeError, ValueError, KeyError):  # a call that does not fit its own words: logging says so
            return record
        if (safe := hide(said)) != said:
            record.msg, record.args = safe, ()
        if record.exc_info and record.exc_info[1] is not None:
            record.exc_text = hide("".join(traceback.format_exception(record.exc_info[1])).rstrip("\n"))
        return record

    logging.setLogRecordFactory(make_hidden)
