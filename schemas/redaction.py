"""Keys and passwords stand in nothing that is written: no answer, no error, no line of a terminal or a log.

The one place that knows them. Whoever reads a secret calls `guard`, a process that starts `guard_environment`; whatever
came from elsewhere passes `hide` before it is kept or shown, as do all log records.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import os
import re
import traceback
from typing import Any
from urllib.parse import quote, quote_plus

_SHORTEST = 6  # shorter ones ("none", "EMPTY") are no secrets, and would be cut out of ordinary words
_SHORTEST_OF_ENVIRONMENT = 8
_HIDDEN = "[hidden]"
_NAMES = re.compile(r"(?:^|_)(?:API_?KEY|(?:ACCESS_|SECRET_|PRIVATE_)?KEY|KEY_ID|TOKEN|SECRET|PASSWORD|PASSWD|PAT)$")
_IN_ADDRESS = re.compile(r"(?<=://)[^\s/@'\"<>]{1,300}@")
_IN_QUERY = re.compile(
    r"([?&;](?:[\w.-]{0,30}(?:key|token|secret|passw(?:or)?d|signature|credential)[\w.-]{0,20}|sig|auth|code)=)[^&\s'\"<>]{1,2000}",
    re.IGNORECASE,
)
_secrets: tuple[str, ...] = ()
_known: set[str] = set()


def guard(secret: str) -> None:
    """From now on it is hidden: as it is, URL-encoded, in JSON, in base64, and what a header's value holds of it."""
    global _secrets
    if len(secret) < _SHORTEST or secret in _known:
        return
    if not _secrets:
        _guard_logs()
    _known.add(secret)
    forms = {form for form in _forms(secret) if len(form) >= _SHORTEST}
    _secrets = tuple(sorted({*_secrets, *forms}, key=len, reverse=True))


def guard_environment() -> None:
    """Guard what the environment holds of secrets by their variables' names: OPENAI_API_KEY, HF_TOKEN,
    AWS_SECRET_ACCESS_KEY and their like."""
    for name, value in os.environ.items():
        if _NAMES.search(name.upper()) and len(value.strip()) >= _SHORTEST_OF_ENVIRONMENT and not os.path.exists(value):
            guard(value.strip())


def hide(text: str) -> str:
    """The text without secrets, and without what addresses hold of them."""
    for secret in _secrets:
        text = text.replace(secret, _HIDDEN)
    if "://" in text:
        text = _IN_ADDRESS.sub(f"{_HIDDEN}@", text)
    return _IN_QUERY.sub(rf"\1{_HIDDEN}", text) if "=" in text else text


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


def _forms(secret: str) -> set[str]:
    parts = {secret}
    scheme, _, rest = secret.partition(" ")  # of a header: "Bearer ...", "Basic ..."
    if rest:
        parts.add(rest.strip())
    if scheme.lower() == "basic":
        try:
            both = base64.b64decode(rest, validate=True).decode()
            parts |= {both, both.partition(":")[2]}
        except (binascii.Error, UnicodeDecodeError):
            pass
    forms: set[str] = set()
    for part in parts:
        forms |= {part, quote(part, safe=""), quote_plus(part), quote(part, safe="").lower(), json.dumps(part)[1:-1]}
        for before in range(3):  # as it stands in the base64 of a longer text ("user:password"), whatever is before it
            data = b"\0" * before + part.encode("utf-8", "surrogateescape")
            whole = len(data) // 3 * 3
            for encode in (base64.b64encode, base64.urlsafe_b64encode):
                start = 4 if before else 0
                forms.add(encode(data[:whole]).decode()[start:])
    return forms


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
