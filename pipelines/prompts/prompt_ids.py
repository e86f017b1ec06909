"""Prompt ids are unique within a run: who had an id first, for files of any length."""

import re
import sqlite3

ID_FORM = re.compile(r"[A-Za-z0-9_-]{1,64}")


class PromptIds:
    """The ids taken so far, in a temporary database on disk, so that memory does not grow with the file."""

    def __init__(self) -> None:
        # An empty name is SQLite's temporary database: pages beyond a small cache go to a file deleted on closing.
        self._ids = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._ids.execute("PRAGMA journal_mode = OFF")
        self._ids.execute("CREATE TABLE ids (id TEXT PRIMARY KEY, line INTEGER) WITHOUT ROWID")
        self._ids.execute("BEGIN")

    def claim(self, prompt_id: str, line: int) -> int | None:
        """Take an id for the row on `line`; the line of the row that has it already, or None if it was free."""
        if self._ids.execute("INSERT OR IGNORE INTO ids VALUES (?, ?)", (prompt_id, line)).rowcount == 1:
            return None
        (first,) = self._ids.execute("SELECT line FROM ids WHERE id = ?", (prompt_id,)).fetchone()
        return first

    def generate(self, subset: str, row_number: int, line: int) -> str:
        """`general-000017`, or `general-000017-2` where an earlier row brought that id along."""
        wanted = prompt_id = f"{subset}-{row_number:06d}"
        attempt = 1
        while self.claim(prompt_id, line) is not None:
            attempt += 1
            prompt_id = f"{wanted}-{attempt}"
        return prompt_id

    def close(self) -> None:
        self._ids.close()
