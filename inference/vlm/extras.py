"""What a user tells an endpoint besides requests: its address, headers whose values stand in the environment, and more
of the body."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import unquote

from schemas.errors import InputError

MAX_BODY = 16 * 2**20
"""Bytes of an answer; a thousand tokens with their likeliest twenty are one."""
_OURS = frozenset({"model", "messages", "n", "stream", "response_format"})  # an answer could not be read, or differs

_SECRET_NAME = re.compile(
    r"api.?key|secret|passw(?:or)?d|signature|credential|authorization|bearer|(?:^|[-_])(?:key|token|sig|auth|code)$",
    re.IGNORECASE,
)
_PARAMETER = re.compile(r"[?&;#]([^=&;#]*)=")


def address(base_url: str, owner: str = "vlm") -> str:
    """The base_url as it is. InputError, which does not show it, where it holds a password: it would stand in run.json,
    reports and logs. owner: whose flags are named there, here and below."""
    authority = re.split(r"[/?#\\]", re.sub(r"^\s*(?:[A-Za-z][A-Za-z0-9+.-]*:)?[/\\]*(?=\S)", "", base_url))[0]
    if "@" in authority or any(_SECRET_NAME.search(name) for name in _PARAMETER.findall(unquote(base_url))):
        raise InputError(
            f"base_url holds a key, a user's name or a password for {authority.rpartition('@')[2]}",
            field=f"{owner}.base_url",
            expected="the address alone; a key stands in the environment variable that api_key_env names, other "
            f"credentials in one that headers name: --{owner}.headers Authorization=MY_BASIC_AUTH",
        )
    return base_url


def read_extra_body(text: str, owner: str = "vlm", ours: frozenset[str] = _OURS) -> dict[str, Any]:
    """The JSON object of `extra_body`; empty for "". InputError for anything else, and for what is not the user's
    (`ours`)."""
    try:
        body = json.loads(text) if text else {}
    except (ValueError, RecursionError) as error:
        raise InputError(f"extra_body does not read as JSON: {error}", field=f"{owner}.extra_body") from None
    if not isinstance(body, dict):
        raise InputError("extra_body is no JSON object", field=f"{owner}.extra_body", expected='such as {"min_p": 0.1}')
    refuse_secrets(_names_in(body), f"{owner}.extra_body", f"a header: --{owner}.headers NAME=VARIABLE")
    if taken := sorted(ours & body.keys()):
        raise InputError(f"extra_body sets {', '.join(taken)}", field=f"{owner}.extra_body", expected="anything else")
    return body


def refuse_secrets(names: Iterable[str], field: str, elsewhere: str) -> None:
    """InputError for a name, of what a run writes down with its value, that a key or a password has."""
    for name in names:
        if _SECRET_NAME.search(name.lstrip("-")):
            raise InputError(
                f"{name[:40]!r} names a secret, and its value would stand in run.json, reports and logs",
                field=field,
                expected=elsewhere,
            )


def _names_in(body: Any) -> Iterator[str]:
    """Keys of all objects."""
    for name, value in body.items() if isinstance(body, dict) else ():
        yield name
        yield from _names_in(value)
    for value in body if isinstance(body, list) else ():
        yield from _names_in(value)


def split_headers(headers: Sequence[str], owner: str = "vlm") -> dict[str, str]:
    """Header name -> environment variable. InputError, which shows no value, for what is no NAME=VARIABLE."""
    found: dict[str, str] = {}
    for number, header in enumerate(headers):
        name, equals, holder = header.partition("=")
        if not (equals and _is_token(name) and holder.isidentifier()):
            raise InputError(
                f"header {number + 1} is not NAME=VARIABLE",
                field=f"{owner}.headers",
                expected="a header's name and the environment variable that holds its value, such as api-key=AZURE_KEY",
            )
        found[name] = holder
    return found


def variable(api_key_env: str, owner: str = "vlm") -> str:
    """The name of the key's variable as it is. InputError, which does not show it, for what looks like the key."""
    if not api_key_env.isidentifier():
        raise InputError(
            "api_key_env is no variable's name",
            field=f"{owner}.api_key_env",
            expected="the name of the environment variable that holds the key, such as OPENAI_API_KEY, not the key",
        )
    return api_key_env


def header_values(headers: Sequence[str], owner: str = "vlm") -> dict[str, str]:
    """Header name -> value. InputError for a variable that is not set."""
    found: dict[str, str] = {}
    for name, holder in split_headers(headers, owner).items():
        value = os.environ.get(holder)
        if not value:
            raise InputError(
                f"the header {name} has no value", field=f"{owner}.headers", expected=f"it in the variable {holder}"
            )
        found[name] = value
    return found


def _is_token(name: str) -> bool:
    return bool(name) and name.isascii() and all(c.isalnum() or c in "-_" for c in name)
