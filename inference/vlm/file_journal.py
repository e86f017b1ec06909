"""A model's answers in a folder, for commands that have no run folder. See `inference.vlm.endpoint.Journal`."""

import json
import os
from pathlib import Path
from typing import Any


class FileJournal:
    """`<folder>/<hash>.json`, each written whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: str) -> dict[str, Any] | None:
        """What was put under the key; None for what is missing or does not read."""
        try:
            value = json.loads((self._folder / f"{key}.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def put(self, key: str, value: dict[str, Any]) -> None:
        """Keep an answer."""
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / f"{key}.{os.getpid()}.tmp"
        temporary.write_text(json.dumps(value, sort_keys=True, ensure_ascii=False), encoding="utf-8")
        os.replace(temporary, self._folder / f"{key}.json")
