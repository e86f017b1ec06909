"""What a server does not take of a request for an image, learnt from what it says when it is given it, as for chat
(`inference.vlm.dialect`). OpenAI's image models know no seed, no steps and no `response_format`; others know no
negative prompt. What was learnt holds for the process's life. The journal's keys know nothing of it."""

from __future__ import annotations

import logging
import re
import threading
from typing import Any

from inference.vlm.dialect import REFUSED

log = logging.getLogger(__name__)

OPTIONAL = (
    "response_format",
    "true_cfg_scale",
    "negative_prompt",
    "guidance_scale",
    "num_inference_steps",
    "seed",
    "n",
)
"""In the order in which one of several named ones is left out."""
_left_out: dict[tuple[str, str, str], frozenset[str]] = {}
_lock = threading.Lock()


def left_out(base_url: str, model: str, route: str) -> frozenset[str]:
    """What this process knows that a model at an address does not take."""
    return _left_out.get((base_url, model, route), frozenset())


def refused_name(complaint: str, param: str | None, payload: dict[str, Any]) -> str | None:
    """What of the payload a server says that it does not know; None for a complaint about something else. param: what
    it named as the cause, if it did."""
    if not REFUSED.search(complaint):
        return None
    return next((name for name in OPTIONAL if name in payload and is_about(name, complaint, param, payload)), None)


def is_about(name: str, complaint: str, param: str | None, payload: dict[str, Any]) -> bool:
    """Whether a complaint is about a field of the payload."""
    if param is not None and param in payload:
        return param == name
    return re.search(rf"(?<![\w.]){name}\b", complaint) is not None


def remember(base_url: str, model: str, route: str, names: frozenset[str]) -> None:
    """Keep what worked, and say what is new."""
    with _lock:
        known = left_out(base_url, model, route)
        if not (news := names - known):
            return
        _left_out[base_url, model, route] = known | names
    log.warning("%s at %s is sent no %s: it refuses that", model, base_url, ", ".join(sorted(news)))
