"""Reads a page as a browser would: elements, attributes, and the JSON islands. Independent of how the page is made."""

import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any


@dataclass
class Script:
    """One script element."""

    kind: str
    name: str
    text: str = ""


@dataclass
class Page:
    """What was found. text: of everything that is shown, script and style left out."""

    scripts: list[Script] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    attributes: list[tuple[str, str, str]] = field(default_factory=list)
    text: str = ""

    def island(self, name: str) -> Any:
        """Parsed JSON of one island."""
        (script,) = [script for script in self.scripts if script.name == name]
        return json.loads(script.text)

    @property
    def pairs(self) -> list[dict[str, Any]]:
        """Pair cards."""
        return self.island("cards")["pairs"]

    @property
    def prompts(self) -> list[dict[str, Any]]:
        """Cards of rejected and quarantined prompts."""
        return self.island("cards")["prompts"]

    @property
    def visible(self) -> str:
        """Text with white space folded."""
        return " ".join(self.text.split())


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.page = Page()
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.page.tags.append(tag)
        self.page.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag in ("script", "style"):
            self._inside = tag
        if tag == "script":
            given = dict(attrs)
            self.page.scripts.append(Script(given.get("type") or "", given.get("id") or ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = ""
        self.page.text += " "

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.page.scripts[-1].text += data
        elif not self._inside:
            self.page.text += data


def read_page(html: str) -> Page:
    """Parse a whole page."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader.page
