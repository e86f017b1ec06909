"""The shell of every page: one HTML file that needs nothing but a browser, in light and dark, wide and narrow.

Prompts, reasons and reflections are strangers' text. They reach a page in two ways: through a template with autoescape
on, and as JSON islands without one `<`, from which a script builds text nodes. A content security policy that allows
just the page's own script, by hash, and images inside the page, is the second wall.

A page is a template beside this file that begins `{% extends "shell.html.j2" %}` and fills its blocks; what several
pages show (pictures that open, filters, scores) are macros of `parts.html.j2`.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.requirements.atoms import HOLDS
from pipelines.report.words import explained

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

_FOLDER = Path(__file__).parent
_SCRIPT = "shell.js"  # what looks closer at pictures, and keeps filters in the address


def render(template: str, script: str = "", **values: Any) -> bytes:
    """A page as UTF-8. template: its file's name. script: of a file with more of a script, which follows the
    shell's. values: what the template names; all of it is text, never markup."""
    from markupsafe import Markup

    names = [_SCRIPT, *([script] if script else [])]
    code = "\n".join((_FOLDER / name).read_text(encoding="utf-8") for name in names)
    page = (
        _templates()
        .get_template(template)
        .render(
            style=Markup((_FOLDER / "page.css").read_text(encoding="utf-8")),
            script=Markup(code),
            script_hash=base64.b64encode(hashlib.sha256(code.encode()).digest()).decode(),
            **values,
        )
    )
    return page.encode()


def island(value: Any) -> Markup:
    """JSON without `<`, `>`, `&` or `'`: it cannot end the script element it lies in."""
    from jinja2.utils import htmlsafe_json_dumps

    return htmlsafe_json_dumps(value, dumps=lambda v, **_: json.dumps(v, separators=(",", ":"), allow_nan=False))


@functools.cache
def _templates() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from pipelines.report.figures import bands

    found = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals["HOLDS"] = HOLDS
    found.filters.update(bands=bands, explained=explained)
    return found


def as_filter(name: str, label: str, values: Mapping[str, str]) -> dict[str, Any]:
    """A choice of a page's filter. name: of the `data-` attribute of what is filtered. values: words by value."""
    return {"name": name, "label": label, "values": dict(values)}
