"""A run on an object store, through `pyarrow.fs`. One put of complete bytes is the commit: no temporary names."""

import os
from typing import Any

import pyarrow as pa
from pyarrow import fs

from schemas.errors import InputError, StorageError
from schemas.storage import Storage


class ObjectStorage:
    """See `schemas.storage.Storage`. Credentials and region come from the environment, as everywhere on S3;
    AWS_ENDPOINT_URL names another server than Amazon's."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self._fs, self._root = _connect(self.uri)

    def __reduce__(self) -> tuple[Any, ...]:
        return ObjectStorage, (self.uri,)

    def read(self, path: str) -> bytes:
        try:
            with self._fs.open_input_stream(self._path(path)) as stream:
                return stream.readall()
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.uri}/{path}") from None
        except (OSError, pa.ArrowException) as error:
            raise self._error(path, error) from error

    def commit(self, path: str, data: bytes) -> None:
        try:
            # The stream's own clean-up publishes what it has when an exception leaves it, so there is just one write of
            # complete bytes: either it went through, or nothing gets the name.
            stream = self._fs.open_output_stream(self._path(path))
            stream.write(data)
            stream.close()
        except (OSError, pa.ArrowException) as error:
            raise self._error(path, error) from error

    def create(self, path: str, data: bytes) -> bool:
        """Object stores reached this way cannot create exclusively: look, put, look again. Of two callers within the
        same moment the later one wins, and the earlier one notices at its next look."""
        if self.size(path) is not None:
            return False
        self.commit(path, data)
        return self.read(path) == data

    def size(self, path: str) -> int | None:
        try:
            info = self._fs.get_file_info(self._path(path))
        except (OSError, pa.ArrowException) as error:
            raise self._error(path, error) from error
        return info.size if info.type == fs.FileType.File else None

    def names(self, folder: str) -> list[str]:
        selector = fs.FileSelector(self._path(folder), allow_not_found=True, recursive=False)
        try:
            return sorted(info.base_name for info in self._fs.get_file_info(selector))
        except (OSError, pa.ArrowException) as error:
            raise self._error(folder, error) from error

    def delete(self, path: str) -> None:
        try:
            info = self._fs.get_file_info(self._path(path))
            if info.type == fs.FileType.File:
                self._fs.delete_file(info.path)
            elif info.type == fs.FileType.Directory:
                self._fs.delete_dir(info.path)
        except (OSError, pa.ArrowException) as error:
            raise self._error(path, error) from error

    def copy_from(self, other: Storage, path: str) -> None:
        if isinstance(other, ObjectStorage) and other._fs == self._fs:
            try:
                self._fs.copy_file(other._path(path), self._path(path))
            except (OSError, pa.ArrowException) as error:
                raise self._error(path, error) from error
        else:
            self.commit(path, other.read(path))

    def sweep(self) -> int:
        return 0

    def _path(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    def _error(self, path: str, error: Exception) -> StorageError:
        return StorageError(f"{self.uri}/{path}: {error}; the run can be resumed once storage answers again")


def _connect(uri: str) -> tuple[Any, str]:
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    if uri.startswith("s3://") and endpoint:
        scheme, _, host = endpoint.rpartition("://")
        return fs.S3FileSystem(endpoint_override=host, scheme=scheme or "https"), uri.removeprefix("s3://")
    try:
        return fs.FileSystem.from_uri(uri)
    except (ValueError, OSError, pa.ArrowException) as error:
        raise InputError(
            f"no storage for {uri!r} ({error})", expected="a local folder, or a URI such as s3://bucket/run"
        ) from error
