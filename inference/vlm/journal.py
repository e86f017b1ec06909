"""Answers that were paid for, by the hash of what was asked: once there, they do not change and are not asked again."""

from __future__ import annotations

import json
from typing import Any

from schemas.storage import Storage


class StorageJournal:
    """`<folder>/<first two digits>/<hash>.json` of a storage: a run's, or a folder of a command that has no run.
    See `inference.vlm.endpoint.Journal`."""

    def __init__(self, storage: Storage, folder: str = "") -> None:
        self._storage, self._start = storage, f"{folder}/" if folder else ""

    def get(self, key: str) -> dict[str, Any] | None:
        """What was put under the key; None for what is missing or does not read, which is then asked again."""
        try:
            value = json.loads(self._storage.read(self._path(key)))
        except (FileNotFoundError, ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None

    def put(self, key: str, value: dict[str, Any]) -> None:
        """Commit an answer."""
        self._storage.commit(self._path(key), json.dumps(value, sort_keys=True, ensure_ascii=False).encode())

    def _path(self, key: str) -> str:
        return f"{self._start}{key[:2]}/{key}.json"
