"""A run on an object store, through `pyarrow.fs`. One put of complete bytes is the commit: no temporary names.

Nothing here hangs: a store that does not answer is a StorageError after `MAX_ATTEMPTS` tries, in under a minute.
"""

import ctypes
import io
import os
import random
import secrets
import time
from collections.abc import Callable
from typing import Any, BinaryIO

import pyarrow as pa
from pyarrow import fs

from schemas.errors import InputError, StorageError
from schemas.storage import Storage

CONNECT_TIMEOUT_S = 4.0
SILENCE_TIMEOUT_S = 3.0
"""A request is tried again when not one byte came or went for so long."""
MAX_ATTEMPTS = 4
"""Tries of one request, with random waits that double from half a second. AWS_MAX_ATTEMPTS says otherwise."""
STALE_CLAIM_S = 60.0
"""A claim this much older than one's own was left by a process that is gone."""
_TEMPORARY = ".tmp-"
_SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss")
_HINTS = {
    ("NO_SUCH_BUCKET",): "there is no such bucket: create it, or correct the URI",
    ("ACCESS_DENIED", "HTTP status 403", "INVALID_ACCESS_KEY", "SIGNATURE", "EXPIRED_TOKEN", "UNRECOGNIZED_CLIENT"): (
        "the store refused these credentials, or found none: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
        "AWS_PROFILE, or the machine's role, with the right to list, read, write and delete here, then `resume`"
    ),
}
_STORE_FAILED = "INTERNAL_FAILURE"
_AWAY = "the run can be resumed once storage answers again"
_unpublished: dict[object, list[Any]] = {}
"""Streams that an exception left open. A stream that is destroyed publishes what it has, even nothing, under its final
name, or hangs when the process is ending. So these are never destroyed: the dict is given a reference for good."""
ctypes.pythonapi.Py_IncRef(ctypes.py_object(_unpublished))


class ObjectStorage:
    """See `schemas.storage.Storage`. Credentials and region come from the environment, as everywhere on S3;
    AWS_ENDPOINT_URL names another server than Amazon's."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/") if uri.partition("://")[2].strip("/") else uri
        self._fs, self._root = _connect(self.uri)

    def __reduce__(self) -> tuple[Any, ...]:
        return ObjectStorage, (self.uri,)

    def read(self, path: str) -> bytes:
        try:
            return self._read(path)
        except StorageError as error:
            # The SDK takes a failure of the store in the middle of an answer for final, and it is not.
            if _STORE_FAILED not in str(error):
                raise
        return self._read(path)

    def _read(self, path: str) -> bytes:
        try:
            # No compression: by default pyarrow would unpack what is called `.gz`.
            with self._fs.open_input_stream(self._path(path), compression=None) as stream:
                return stream.readall()
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.uri}/{path}") from None
        except (OSError, pa.ArrowException) as error:
            raise self._error(path, error) from error

    def open(self, path: str) -> BinaryIO:
        try:
            file = self._fs.open_input_file(self._path(path))
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.uri}/{path}") from None
        except (OSError, pa.ArrowException) as error:
            raise self._error(path, error) from error
        # A mebibyte a request: a Parquet footer comes with one, and its columns are read in long runs.
        return io.BufferedReader(_Object(file, lambda error: self._error(path, error)), buffer_size=2**20)

    def commit(self, path: str, data: bytes) -> None:
        held: list[Any] = []
        token = object()
        _unpublished[token] = held
        try:
            # Opened and held in one step of C, where Ctrl-C cannot come in between and destroy the stream.
            held.extend(map(self._fs.open_output_stream, [self._path(path)], [None]))
            held[0].write(data)
            held[0].close()
        except (OSError, pa.ArrowException) as error:
            raise self._error(path, error) from error
        finally:
            if not held or held[0].closed:
                del _unpublished[token]

    def create(self, path: str, data: bytes) -> bool:
        """Object stores reached this way cannot put exclusively, but they list what was put before. So: claim the name
        with an object beside it, list, and go on only when nobody else's claim is there."""
        folder, _, name = path.rpartition("/")
        for attempt in range(10):
            if self.size(path) is not None:
                return False
            claim = f"{folder}/{_TEMPORARY}{name}-{secrets.token_hex(8)}".lstrip("/")
            self.commit(claim, b"claim")
            try:
                # A claim is taken back only after the name is put, so who is alone here and still finds no such name
                # is the first.
                if not self._others_claim(folder, name, claim) and self.size(path) is None:
                    self.commit(path, data)
                    return True
            finally:
                self.delete(claim)
            time.sleep(random.uniform(0.05, 0.2) * 2 ** min(attempt, 4))
        raise StorageError(f"{self.uri}/{path}: others try to create it all the time; try again in a minute")

    def size(self, path: str) -> int | None:
        try:
            info = self._fs.get_file_info(self._path(path))
        except (OSError, pa.ArrowException) as error:
            raise self._error(path, error) from error
        return info.size if info.type == fs.FileType.File else None

    def names(self, folder: str) -> list[str]:
        return sorted(name for info in self._infos(folder) if not (name := info.base_name).startswith(_TEMPORARY))

    def delete(self, path: str) -> None:
        try:
            info = self._fs.get_file_info(self._path(path))
            if info.type == fs.FileType.File:
                self._fs.delete_file(info.path)
            elif info.type == fs.FileType.Directory:
                self._fs.delete_dir(info.path)
        except FileNotFoundError:
            return  # somebody else removed it first
        except (OSError, pa.ArrowException) as error:
            raise self._error(path, error) from error

    def copy_from(self, other: Storage, path: str) -> None:
        if not isinstance(other, ObjectStorage) or other._fs != self._fs:
            self.commit(path, other.read(path))
            return
        try:
            self._fs.copy_file(other._path(path), self._path(path))
        except (OSError, pa.ArrowException) as error:
            if "NO_SUCH_KEY" in str(error):
                raise FileNotFoundError(f"{other.uri}/{path}") from None
            raise self._error(path, error) from error

    def sweep(self) -> int:
        """Claims that a killed process left. What a killed upload left has no name; the store's own rule for
        incomplete uploads removes it (docs/cluster.md)."""
        claims = [info for info in self._infos("") if info.base_name.startswith(_TEMPORARY) and info.mtime]
        stale = [info for info in claims if time.time() - info.mtime.timestamp() > 10 * STALE_CLAIM_S]
        for info in stale:
            self.delete(info.base_name)
        return len(stale)

    def _others_claim(self, folder: str, name: str, mine: str) -> bool:
        prefix = f"{_TEMPORARY}{name}-"
        claims = {info.base_name: info.mtime for info in self._infos(folder) if info.base_name.startswith(prefix)}
        my_time = claims.pop(mine.rpartition("/")[2], None)
        # Both times are the store's own, so no two clocks are compared.
        return my_time is None or any((my_time - at).total_seconds() < STALE_CLAIM_S for at in claims.values())

    def _infos(self, folder: str) -> list[Any]:
        selector = fs.FileSelector(self._path(folder), allow_not_found=True, recursive=False)
        try:
            return self._fs.get_file_info(selector)
        except (OSError, pa.ArrowException) as error:
            raise self._error(folder, error) from error

    def _path(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    def _error(self, path: str, error: Exception) -> StorageError:
        problem = " ".join(str(error).split())
        hint = next((hint for marks, hint in _HINTS.items() if any(mark in problem for mark in marks)), _AWAY)
        return StorageError(f"{self.uri}/{path}: {problem}\n  {hint}")


def _connect(uri: str) -> tuple[Any, str]:
    """File system and root path. Opens no connection, but to ask where an S3 bucket lies when nothing says so."""
    scheme, _, place = uri.partition("://")
    expected = "a local folder, or a URI such as s3://bucket/run"
    if scheme not in _SCHEMES:
        # Others, such as hdfs://, show files before they are whole.
        raise InputError(f"no storage for {uri!r}", expected=f"{expected} ({', '.join(_SCHEMES)})")
    if not place.strip("/"):
        raise InputError(f"{uri!r} names no bucket", expected=expected)
    try:
        if scheme == "s3":
            return _s3(place.partition("/")[0]), place
        if scheme in ("gs", "gcs") and "?" not in uri:
            return fs.FileSystem.from_uri(f"{uri}?retry_limit_seconds=40")
        return fs.FileSystem.from_uri(uri)
    except (ValueError, OSError, pa.ArrowException) as error:
        raise InputError(f"no storage for {uri!r} ({error})", expected=expected) from error


def _s3(bucket: str) -> Any:
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    scheme, _, host = (endpoint or "").rstrip("/").rpartition("://")
    return fs.S3FileSystem(
        endpoint_override=host or None,
        scheme=scheme or "https",
        region=region or (None if endpoint else fs.resolve_s3_region(bucket)),
        connect_timeout=CONNECT_TIMEOUT_S,
        request_timeout=SILENCE_TIMEOUT_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(int(os.environ.get("AWS_MAX_ATTEMPTS", MAX_ATTEMPTS))),
        allow_delayed_open=True,  # one request for a small file, instead of three
    )


class _Object(io.RawIOBase):
    """Ranged reads of an object. A store that goes away in between is a StorageError, not a file that ends early."""

    def __init__(self, file: Any, error: Callable[[Exception], StorageError]) -> None:
        self._file, self._error = file, error

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._file.seek(offset, whence)
        return self._file.tell()

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        try:
            return self._file.readinto(buffer)
        except (OSError, pa.ArrowException) as error:
            raise self._error(error) from error

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
