"""A run on an object store (S3, Google Cloud Storage, Azure), through `obstore`: one put of whole bytes is the commit.

Whoever holds a lease writes under conditions that the store itself checks: a name that nobody has, or the version that
was seen. Nothing here hangs: a store that does not answer is a StorageError after `MAX_ATTEMPTS` tries, in under a
minute.
"""

import io
import os
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import S3Store, from_url

from schemas.errors import InputError, StorageError
from schemas.storage import LEASE, Storage, holder_of, lease_lost

CONNECT_TIMEOUT_S = 4.0
SILENCE_TIMEOUT_S = 8.0
"""A request is given up when no byte came for so long; a put has its own time for sending."""
SLOWEST_UPLOAD = 1e6
"""Bytes a second that a put may need, beyond which it counts as silent."""
GIVE_UP_S = 50.0
"""No try begins that might end later than this, but the first."""
MAX_ATTEMPTS = 4
"""Tries of one request, with random waits that double from half a second. AWS_MAX_ATTEMPTS says otherwise."""
_SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss")
_HINTS = {
    ("NoSuchBucket", "ContainerNotFound"): "there is no such bucket: create it, or correct the URI",
    ("PermissionDenied", "Unauthenticated", "403 Forbidden", "401 Unauthorized", "credential"): (
        "the store refused these credentials, or found none: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
        "AWS_PROFILE, or the machine's role, with the right to list, read, write and delete here, then `resume`"
    ),
}
_AWAY = "the run can be resumed once storage answers again"
_FAILURES = (BaseError, OSError, ValueError)


class ObjectStorage:
    """See `schemas.storage.Storage`. Credentials and region come from the environment, as everywhere on S3;
    AWS_ENDPOINT_URL names another server than Amazon's."""

    def __init__(self, uri: str, token: str | None = None) -> None:
        self.uri = uri.rstrip("/") if uri.partition("://")[2].strip("/") else uri
        self.token = token
        self._stores: dict[tuple[str, float], Any] = {}
        self._connected()

    def __reduce__(self) -> tuple[Any, ...]:
        return ObjectStorage, (self.uri, self.token)

    def read(self, path: str) -> bytes:
        return self._get(path)[1]

    def open(self, path: str) -> BinaryIO:
        # A mebibyte a request: a Parquet footer comes with one, and its columns are read in long runs.
        return io.BufferedReader(_Object(self, path, self._head(path)["size"]), buffer_size=2**20)

    def commit(self, path: str, data: bytes) -> None:
        if self.token is None:
            self._put(path, data, "overwrite")
            return
        for _ in range(MAX_ATTEMPTS):
            self._prove(path)
            try:
                self._put(path, data, "create")
                return
            except AlreadyExistsError:
                pass
            try:
                # Before the lease is looked at: whoever takes it after that, and writes here, changes what was seen.
                seen = _version(self._head(path))
                self._prove(path)
                self._put(path, data, seen)
                return
            except (FileNotFoundError, PreconditionError, AlreadyExistsError):
                continue  # somebody changed it in between; if that was a successor, the next look at the lease says so
        raise StorageError(f"{self.uri}/{path}: others change it all the time; try again in a minute")

    def size(self, path: str) -> int | None:
        try:
            return self._head(path)["size"]
        except FileNotFoundError:
            return None

    def names(self, folder: str) -> list[str]:
        try:
            found = obstore.list_with_delimiter(self._connected(), folder or None)
        except _FAILURES as error:
            if "NoSuchBucket" in str(error):
                return []
            raise self._error(folder, error) from error
        paths = [*found["common_prefixes"], *(info["path"] for info in found["objects"])]
        names = {path.rstrip("/").rpartition("/")[2] for path in paths}
        return sorted(name for name in names if name and not name.startswith("."))

    def delete(self, path: str) -> None:
        self._prove(path)
        store = self._connected()
        try:
            below = [info["path"] for batch in obstore.list(store, path) for info in batch]
            obstore.delete(store, [path, *below])
        except FileNotFoundError:
            return
        except _FAILURES as error:
            raise self._error(path, error) from error

    def copy_from(self, other: Storage, path: str) -> None:
        if not isinstance(other, ObjectStorage) or _bucket(other.uri) != _bucket(self.uri):
            self.commit(path, other.read(path))
            return
        self._prove(path)
        bucket = _bucket(self.uri)
        source, target = (f"{uri}/{path}".removeprefix(bucket).lstrip("/") for uri in (other.uri, self.uri))
        try:
            obstore.copy(self._connected(uri=bucket), source, target)
        except FileNotFoundError:
            raise FileNotFoundError(f"{other.uri}/{path}") from None
        except _FAILURES as error:
            raise self._error(path, error) from error

    def sweep(self) -> int:
        """Nothing: what a killed upload left has no name."""
        return 0

    # The lease

    def lease(self) -> tuple[Any, bytes]:
        try:
            version, data = self._get(LEASE)
        except FileNotFoundError:
            return None, b""
        return version, data

    def swap_lease(self, version: Any, record: bytes) -> Any | None:
        try:
            return self._put(LEASE, record, version or "create")
        except (PreconditionError, AlreadyExistsError, FileNotFoundError):
            return None

    def fenced(self, token: str) -> "ObjectStorage":
        return ObjectStorage(self.uri, token)

    def fence_off_others(self) -> None:
        """Nothing: others read the lease before they write."""

    def lift_fence(self) -> None:
        """Nothing is kept for a writer."""

    def _prove(self, path: str) -> None:
        if self.token is not None and holder_of(self.lease()[1]).get("token") != self.token:
            raise lease_lost(f"{self.uri}/{path}")

    # Requests

    def _get(self, path: str) -> tuple[dict[str, str], bytes]:
        try:
            result = obstore.get(self._connected(), path)
            return _version(result.meta), bytes(result.bytes())
        except FileNotFoundError as error:
            raise self._missing(path, error) from None
        except _FAILURES as error:
            raise self._error(path, error) from error

    def _range(self, path: str, start: int, length: int) -> bytes:
        try:
            return bytes(obstore.get_range(self._connected(), path, start=start, length=length))
        except FileNotFoundError as error:
            raise self._missing(path, error) from None
        except _FAILURES as error:
            raise self._error(path, error) from error

    def _head(self, path: str) -> Any:
        try:
            return obstore.head(self._connected(), path)
        except FileNotFoundError as error:
            raise self._missing(path, error) from None
        except _FAILURES as error:
            raise self._error(path, error) from error

    def _put(self, path: str, data: bytes, mode: Any) -> dict[str, str]:
        """The new version. AlreadyExistsError, PreconditionError, FileNotFoundError when the condition fails."""
        patience_s = SILENCE_TIMEOUT_S
        while patience_s < len(data) / SLOWEST_UPLOAD:
            patience_s *= 4
        try:
            # In one request at any size, so that its condition holds for all of it.
            return _version(obstore.put(self._connected(patience_s), path, data, mode=mode, use_multipart=False))
        except (AlreadyExistsError, PreconditionError):
            raise
        except FileNotFoundError as error:
            if isinstance(mode, dict) and "NoSuchBucket" not in str(error):
                raise
            raise self._error(path, error) from error
        except _FAILURES as error:
            raise self._error(path, error) from error

    def _connected(self, silence_s: float | None = None, uri: str = "") -> Any:
        key = (uri or self.uri, silence_s or SILENCE_TIMEOUT_S)
        if key not in self._stores:
            self._stores[key] = _connect(*key)
        return self._stores[key]

    def _missing(self, path: str, error: Exception) -> Exception:
        return self._error(path, error) if "NoSuchBucket" in str(error) else FileNotFoundError(f"{self.uri}/{path}")

    def _error(self, path: str, error: Exception) -> StorageError:
        # obstore goes on with how its own parts see the failure, over twenty lines.
        problem = " ".join(str(error).partition("Debug source")[0].split())
        marks = f"{type(error).__name__} {problem}"
        hint = next((hint for keys, hint in _HINTS.items() if any(key in marks for key in keys)), _AWAY)
        return StorageError(f"{self.uri}/{path}: {problem}\n  {hint}")


def _version(meta: Any) -> dict[str, str]:
    """What a conditional put names: stores use either of the two."""
    return {name: meta[name] for name in ("e_tag", "version") if meta[name] is not None}


def _bucket(uri: str) -> str:
    scheme, _, place = uri.partition("://")
    return f"{scheme}://{place.partition('/')[0]}"


def _connect(uri: str, silence_s: float) -> Any:
    """A store whose paths begin at `uri`. Opens no connection, but to ask where an S3 bucket lies when nothing says
    so."""
    scheme, _, place = uri.partition("://")
    expected = "a local folder, or a URI such as s3://bucket/run"
    if scheme not in _SCHEMES:
        # Others, such as hdfs://, show files before they are whole.
        raise InputError(f"no storage for {uri!r}", expected=f"{expected} ({', '.join(_SCHEMES)})")
    if not place.strip("/"):
        raise InputError(f"{uri!r} names no bucket", expected=expected)
    options: Any = {
        "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
        "read_timeout": timedelta(seconds=silence_s),
        "timeout": timedelta(hours=1),
        "allow_http": True,
    }
    attempts = int(os.environ.get("AWS_MAX_ATTEMPTS", MAX_ATTEMPTS))
    retries: Any = {
        "max_retries": attempts - 1,
        "retry_timeout": timedelta(seconds=max(0.0, GIVE_UP_S - silence_s)),
        "backoff": {"init_backoff": timedelta(seconds=0.5), "max_backoff": timedelta(seconds=8), "base": 2},
    }
    try:
        if scheme == "s3":
            bucket, _, prefix = place.partition("/")
            settings = _s3_settings(bucket)
            return S3Store(bucket, prefix=prefix or None, client_options=options, retry_config=retries, **settings)
        url = uri.replace("gcs://", "gs://", 1)
        return from_url(url, client_options=options, retry_config=retries)
    except _FAILURES as error:
        problem = " ".join(str(error).partition("Debug source")[0].split())
        raise InputError(f"no storage for {uri!r} ({problem})", expected=expected) from error


def _s3_settings(bucket: str) -> dict[str, Any]:
    """Endpoint, region and credentials. Keys in the environment and machines' roles are found by obstore, profiles and
    logins of the AWS tools through boto3."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    config = {"endpoint": endpoint} if endpoint else {}
    settings: dict[str, Any] = {}
    files = [os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"), "~/.aws/config"]
    by_file = "AWS_PROFILE" in os.environ or any(Path(file).expanduser().exists() for file in files)
    if by_file and "AWS_ACCESS_KEY_ID" not in os.environ:
        try:
            import boto3
            from obstore.auth.boto3 import Boto3CredentialProvider
        except ImportError:
            raise InputError(
                "credentials in AWS profiles are read by boto3, which is not installed",
                expected="`pip install boto3`, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment",
            ) from None
        session = boto3.Session()
        region = region or session.region_name
        if session.get_credentials() is not None:
            settings["credential_provider"] = Boto3CredentialProvider(session)
    if region is None and endpoint is None:
        from pyarrow import fs

        region = fs.resolve_s3_region(bucket)
    return settings | {"config": config | ({"region": region} if region else {})}


class _Object(io.RawIOBase):
    """Ranged reads of an object. A store that goes away in between is a StorageError, not a file that ends early."""

    def __init__(self, storage: ObjectStorage, path: str, size: int) -> None:
        self._storage, self._path, self._size, self._at = storage, path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._size - self._at)
        if length <= 0:
            return 0
        part = self._storage._range(self._path, self._at, length)
        if len(part) != length:
            raise StorageError(f"{self._storage.uri}/{self._path}: changed while it was read; {_AWAY}")
        buffer[:length] = part
        self._at += length
        return length
