"""Characters that no text needs: control characters, terminal sequences, what turns the direction of writing, what
nobody sees. Taken out of texts that become data, shown as `\\uXXXX` where a person reads."""

from __future__ import annotations

import json
import re

_BREAKS = re.compile("\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_TERMINAL = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # colours, cursor
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]{0,256}(?:\x07|\x1b\\|\x9c)"  # titles, links
    r"|\x1b[ -/]*[0-~]"
)
_INVISIBLE = "\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff"
_INVISIBLE += "\U000e0000-\U000e007f"
_UNSEEN = re.compile(f"[\x00-\x08\x0e-\x1f\x7f-\x9f{_INVISIBLE}]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_SHOWN = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff{_INVISIBLE}]")
_SHOWN_OF_LINE = re.compile(f"[\n\t]|{_SHOWN.pattern}")


def readable(text: str) -> str:
    """The text without terminal sequences, control and invisible characters; every kind of line break is one, and half
    of a surrogate pair, which no file can hold, is U+FFFD."""
    text = _SURROGATE.sub("\ufffd", _TERMINAL.sub("", text))
    return _UNSEEN.sub("", _BREAKS.sub("\n", text))


def shown(text: str) -> str:
    """The text for a terminal or a log: all that `readable` takes out stands there as `\\uXXXX`, so that JSON stays
    JSON."""
    return _SHOWN.sub(lambda found: json.dumps(found.group())[1:-1], text)


def one_line(text: object) -> str:
    """A name or a word of somebody else's as part of a line: as Python writes such characters, line breaks too."""
    return _SHOWN_OF_LINE.sub(lambda found: found.group().encode("unicode_escape").decode(), str(text))
