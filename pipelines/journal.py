"""Answers that were paid for, by the hash of what was asked: once there, they do not change and are not asked again."""

from __future__ import annotations

import json
from typing import Any

from schemas.storage import Storage


class FolderJournal:
    """`journal/<stage>/<first two digits>/<hash>.json` of a run folder. See `inference.vlm.endpoint.Journal`."""

    def __init__(self, storage: Storage, stage: str) -> None:
        self._storage, self._base = storage, f"journal/{stage}"

    def get(self, key: str) -> dict[str, Any] | None:
        """What was put under the key; None for what is missing or does not read, which is then asked again."""
        try:
            value = json.loads(self._storage.read(self._path(key)))
        except (FileNotFoundError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def put(self, key: str, value: dict[str, Any]) -> None:
        """Commit an answer."""
        self._storage.commit(self._path(key), json.dumps(value, sort_keys=True, ensure_ascii=False).encode())

    def _path(self, key: str) -> str:
        return f"{self._base}/{key[:2]}/{key}.json"
