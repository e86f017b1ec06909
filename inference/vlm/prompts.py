"""Prompt templates for VLMs: text files with {fields}.

Only the named fields are replaced, so that a template may hold other braces (JSON examples).
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from inference.model_store import shipped_path
from schemas.errors import InputError
from schemas.named_file import MAX_TEXT_BYTES, read_file

PROMPT_FOLDER = Path(__file__).parent.parent / "prompts"


@cache
def load_prompt(name: str) -> str:
    """The template `name` ("compare") of this project, without the last newline; or the file of that path, as it is:
    where lines end in it may be what a model was trained with."""
    shipped = shipped_path(f"{name}.txt", "prompts") or PROMPT_FOLDER / f"{name}.txt"
    if shipped.is_file():
        return shipped.read_text(encoding="utf-8").strip()
    expected = f"a text file, or a name like compare in {PROMPT_FOLDER}"
    path = Path(name).expanduser()
    if not path.exists():
        raise InputError(f"no prompt template {name!r}", expected=expected)
    try:
        text = read_file(path, MAX_TEXT_BYTES, expected).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"is no UTF-8 text: {error}", file=str(path), expected="a prompt template") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def fill_known(template: str, **fields: str) -> str:
    """`template` with those of the {fields} that it has. A line whose field has nothing to say is left out, unless it
    holds the prompt too. InputError without a place for {prompt}."""
    silent = ["{" + name + "}" for name, value in fields.items() if not value.strip()]
    lines = [line for line in template.split("\n") if "{prompt}" in line or not any(place in line for place in silent)]
    template = "\n".join(lines)
    known = {name: value for name, value in fields.items() if "{" + name + "}" in template}
    return fill_prompt(template, **({"prompt": fields["prompt"]} | known))


def fill_prompt(template: str, **fields: str) -> str:
    """`template` with every {field} replaced. InputError if it has no place for one of them."""
    missing = [name for name in fields if "{" + name + "}" not in template]
    if missing:
        raise InputError(
            f"the template has no {', '.join('{' + name + '}' for name in missing)}: {template!r}",
            expected=f"a place for {', '.join(fields)}",
        )
    names = "|".join(re.escape(name) for name in fields)
    return re.sub("{(" + names + ")}", lambda match: fields[match.group(1)], template) if fields else template
