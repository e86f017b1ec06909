"""Datasets of the Hugging Face hub. What was fetched lies in the local hub cache and is read there; what was not is
streamed, but only where a URI says so: `hf://datasets/ORG/NAME@REVISION/FOLDER`. Nothing is written to the hub here.
"""

import io
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from schemas.errors import InputError, StorageError
from schemas.storage import Storage

SCHEME = "hf://"
_URI = re.compile(r"hf://datasets/(?P<name>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?(/(?P<folder>.*))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_BLOCK_BYTES = 2**20  # of a request: a Parquet footer comes with one


@dataclass(frozen=True)
class HubDataset:
    """What a person needs to know before fetching a dataset."""

    size: str
    licence: str


KNOWN_DATASETS: dict[str, HubDataset] = {
    "diffusion-cot/GenRef-wds": HubDataset("209 tars of 8 GB, 1.07 M triplets", "none was stated on its card"),
    "diffusion-cot/GenRef-CoT": HubDataset("tars, 221 to 227 thousand comparisons", "none was stated on its card"),
}


def looks_local(name: str) -> bool:
    """Whether the name of nothing that is here was meant as a path: no repository of the hub (ORG/NAME) is called so,
    or the folder that it begins with is here."""
    first, slash, rest = name.partition("/")
    return name.startswith((".", "/", "~")) or not slash or not rest or "://" in name or Path(first).is_dir()


def cached_dataset(name: str, revision: str = "main") -> Path | None:
    """The snapshot of a dataset (ORG/NAME) in the local hub cache; None where it was not fetched."""
    return cached_snapshot("datasets", name, revision)


def cached_snapshot(kind: str, name: str, revision: str = "main") -> Path | None:
    """The snapshot of a repository (ORG/NAME) in the local hub cache; None where it was not fetched. kind: datasets,
    models."""
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        return None
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub")) / f"{kind}--{name.replace('/', '--')}"
    reference = cache / "refs" / revision
    commit = reference.read_text().strip() if reference.is_file() else revision
    snapshot = cache / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None


def how_to_fetch(name: str, include: str) -> str:
    """What to type to have a dataset, or the files of it that a pattern names, in the local cache."""
    known = KNOWN_DATASETS.get(name)
    about = f" ({known.size}; licence: {known.licence})" if known else ""
    return f"`hf download --repo-type dataset {name}`{about}, or a part of it: `--include '{include}'`"


class HubStorage:
    """See `schemas.storage.Storage`; read only. Its `uri` names the commit, so that whoever reads by it later, on
    whichever machine, reads the same files. HF_TOKEN opens gated datasets, HF_ENDPOINT names another hub."""

    def __init__(self, uri: str) -> None:
        """Asks the hub for the commit, unless the URI names it or the dataset is in the cache. InputError for what is
        no such URI, or no dataset that one may read."""
        found = _URI.fullmatch(uri.rstrip("/"))
        if found is None:
            raise InputError(f"no dataset of the hub: {uri!r}", expected=f"{SCHEME}datasets/ORG/NAME or .../FOLDER")
        self.name, revision = found["name"], found["revision"] or "main"
        self._folder = found["folder"] or ""
        self._snapshot = cached_dataset(self.name, revision)
        self._remote: Any = None
        if self._snapshot is not None:
            revision = self._snapshot.name
        elif not _COMMIT.fullmatch(revision):
            revision = self._commit_of(revision)
        self._root = f"datasets/{self.name}@{revision}"
        self.uri = SCHEME + "/".join(part for part in (self._root, self._folder) if part)

    def __reduce__(self) -> tuple[Any, ...]:
        return HubStorage, (self.uri,)

    @property
    def is_cached(self) -> bool:
        """Files are listed as the cache has them, which may be a part of the dataset."""
        return self._snapshot is not None

    def read(self, path: str) -> bytes:
        with self.open(path) as file:
            return file.read()

    def open(self, path: str) -> BinaryIO:
        local = self._local(path)
        if local is not None and local.is_file():
            return open(local, "rb")
        try:
            file = self._files().open(self._path(path), "rb", block_size=_BLOCK_BYTES)
        except Exception as error:
            self._fail(path, error)
        return io.BufferedReader(_HubFile(file, self, path), buffer_size=_BLOCK_BYTES)

    def size(self, path: str) -> int | None:
        local = self._local(path)
        if local is not None:
            return local.stat().st_size if local.is_file() else None
        try:
            info = self._files().info(self._path(path))
        except FileNotFoundError:
            return None
        except Exception as error:
            self._fail(path, error)
        return info["size"] if info["type"] == "file" else None

    def names(self, folder: str) -> list[str]:
        local = self._local(folder)
        if local is not None:
            return sorted(os.listdir(local)) if local.is_dir() else []
        try:
            infos = self._files().ls(self._path(folder), detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except Exception as error:
            self._fail(folder, error)
        return sorted(info["name"].rpartition("/")[2] for info in infos)

    def commit(self, path: str, data: bytes) -> None:
        self._refuse()

    def delete(self, path: str) -> None:
        self._refuse()

    def copy_from(self, other: Storage, path: str) -> None:
        self._refuse()

    def sweep(self) -> int:
        return 0

    def lease(self) -> tuple[Any, bytes]:
        self._refuse()

    def swap_lease(self, version: Any, record: bytes) -> Any | None:
        self._refuse()

    def fenced(self, token: str) -> Storage:
        self._refuse()

    def fence_off_others(self) -> None:
        self._refuse()

    def lift_fence(self) -> None:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise InputError(f"{self.uri} is read, and nothing is written there", expected="a folder, or s3://bucket/run")

    def _local(self, path: str) -> Path | None:
        return None if self._snapshot is None else self._snapshot / self._folder / path

    def _path(self, path: str) -> str:
        return "/".join(part for part in (self._root, self._folder, path) if part)

    def _files(self) -> Any:
        if self._remote is None:
            from huggingface_hub import HfFileSystem

            self._remote = HfFileSystem(endpoint=os.environ.get("HF_ENDPOINT") or None)
        return self._remote

    def _commit_of(self, revision: str) -> str:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
        try:
            commit = api.dataset_info(self.name, revision=revision, timeout=30).sha
        except (RepositoryNotFoundError, RevisionNotFoundError) as error:
            raise InputError(
                f"the hub has no dataset {self.name!r} at {revision!r}, or shows it to nobody without a token",
                expected="ORG/NAME as on its page; HF_TOKEN for one that is gated or private",
            ) from error
        except Exception as error:  # httpx's, which are no OSErrors, and the hub's own
            raise StorageError(
                f"{SCHEME}datasets/{self.name}: not in the local cache, and the hub does not answer "
                f"({type(error).__name__}: {' '.join(str(error).split())})\n  {how_to_fetch(self.name, 'data/*')}"
            ) from error
        assert commit is not None  # of every answer to a question for one revision
        return commit

    def _fail(self, path: str, error: Exception) -> NoReturn:
        where = f"{self.uri}/{path}"
        if isinstance(error, FileNotFoundError):
            raise FileNotFoundError(where) from None
        problem = " ".join(str(error).split())
        raise StorageError(
            f"{where}: {type(error).__name__}: {problem}\n  the run can be resumed once the hub answers again"
        ) from error


class _HubFile(io.RawIOBase):
    """Ranged reads. A hub that goes away in between is a StorageError, not a file that ends early."""

    def __init__(self, file: Any, storage: HubStorage, path: str) -> None:
        self._file, self._storage, self._where = file, storage, path

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._file.read(len(buffer))
        except Exception as error:
            self._storage._fail(self._where, error)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
