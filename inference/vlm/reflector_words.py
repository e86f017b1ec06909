"""In which words a trained reflector is asked: those that it was trained in, which lie beside its weights."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from pathlib import Path

from inference.model_store import SHIPPED, base_model_of, resolve_model
from inference.vlm.prompts import load_prompt
from schemas.errors import InputError

log = logging.getLogger(__name__)

WORDS_FILE = "reflector.json"
OWN_WORDS = "reflect"
"""Our template, for a reflector that nobody knows the words of; a shipped family has one of its own."""
PUBLISHED = {
    "diffusion-cot/Reflection-Generator": "667b4c81880bc76b6a6d8516a83654ea09a62b78e77f27ad13a0955687b535c5",
}
"""Reflectors that others published -> SHA-256 of the template that their code asks by, with {prompt} for the prompt.
The words are not ours to ship: whoever has them brings them as a file."""


def write_words(folder: Path, template: str) -> None:
    """`reflector.json`: the template, with {prompt}, that the reflector in `folder` was trained in."""
    (folder / WORDS_FILE).write_text(json.dumps({"template": template}, indent=2, ensure_ascii=False) + "\n")


def words_of(reflector: str, named: str = "") -> str:
    """The template to ask `reflector` by: `named` (a name or a file), where one is; else what its folder says; else our
    own words, which is said once. MissingWeightsError; InputError for a template without {prompt}."""
    if named:
        template = load_prompt(named)
        _compare(reflector, named, template)
        return template
    folder = resolve_model(reflector)
    path = folder / WORDS_FILE
    try:
        template = json.loads(path.read_text(encoding="utf-8"))["template"]
    except (FileNotFoundError, NotADirectoryError):
        family = (base_model_of(folder) or reflector).partition("/")[0]
        ours = f"{family}/{OWN_WORDS}" if family in SHIPPED else OWN_WORDS
        _say(
            f"{reflector} does not say in which words it was trained (it has no {WORDS_FILE}): it is asked in ours, "
            f"{ours!r}; --...reflector-prompt FILE brings others"
        )
        return load_prompt(ours)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"does not read: {error}", file=str(path), expected='{"template": "... {prompt} ..."}'
        ) from None
    if not isinstance(template, str) or "{prompt}" not in template:
        raise InputError(f"{template!r}", file=str(path), field="template", expected="words with a place for {prompt}")
    return template


def _compare(reflector: str, named: str, template: str) -> None:
    """Say where a published reflector is asked in other words than its code has."""
    for name, digest in PUBLISHED.items():
        known = reflector == name or reflector.startswith(f"{name}/")
        if known and hashlib.sha256(template.removesuffix("\n").encode()).hexdigest() != digest:
            _say(f"{named} has other words than those that {name} was published with (another SHA-256)")


@functools.cache
def _say(message: str) -> None:
    """Once in a process."""
    log.warning(message)
