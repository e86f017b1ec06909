"""The one way to a terminal and to log files: what came from elsewhere (an endpoint's error, a file's name, a prompt)
can neither steer a terminal, nor pass for a line of ours, nor show a secret."""

from __future__ import annotations

import logging
import re
import sys
import traceback
from types import TracebackType
from typing import TextIO

from schemas.plain_text import shown
from schemas.redaction import guard_environment, hide


def say(text: object = "", *, file: TextIO | None = None, end: str = "\n", flush: bool = False) -> None:
    """Print; to standard output unless `file` says otherwise."""
    print(shown(hide(str(text))), file=file or sys.stdout, end=end, flush=flush)


def say_error(text: object) -> None:
    """Print to standard error, further lines indented."""
    say(_indented(str(text)), file=sys.stderr, flush=True)


class PlainFormatter(logging.Formatter):
    """Log records, a record's further lines indented."""

    def format(self, record: logging.LogRecord) -> str:
        return shown(hide(_indented(super().format(record))))


def guard_terminal() -> None:
    """What is printed by nobody of ours, warnings without a handler and tracebacks, goes the same way."""
    guard_environment()
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(PlainFormatter())
    sys.excepthook = _say_traceback


def _say_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    say("".join(traceback.format_exception(kind, error, trace)), file=sys.stderr, end="")


def _indented(text: str) -> str:
    return re.sub(r"(?<=\n)(?=[^\s])", "  ", text.rstrip("\n"))
