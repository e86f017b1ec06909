"""Answers that were paid for, by the hash of what was asked: once there, they do not change and are not asked again.
Each carries its own digest."""

from __future__ import annotations

from typing import Any

from schemas.checked_json import decode_checked, encode_checked
from schemas.errors import CorruptDataError
from schemas.storage import Storage


class StorageJournal:
    """`<folder>/<first two digits>/<hash>.json` of a storage: a run's, or a folder of a command that has no run.
    See `inference.vlm.endpoint.Journal`."""

    def __init__(self, storage: Storage, folder: str = "") -> None:
        self._storage, self._start = storage, f"{folder}/" if folder else ""

    def get(self, key: str) -> dict[str, Any] | None:
        """What was put under the key; None for what is missing, or is not as it was written: it is asked again."""
        path = self._path(key)
        try:
            return decode_checked(self._storage.read(path), path)
        except (FileNotFoundError, CorruptDataError):
            return None

    def put(self, key: str, value: dict[str, Any]) -> None:
        """Commit an answer."""
        self._storage.commit(self._path(key), encode_checked(value))

    def _path(self, key: str) -> str:
        return f"{self._start}{key[:2]}/{key}.json"
