"""Tars as WebDataset reads them: what lies in one, by its headers alone, and which members are one sample.

A sample is members that lie beside each other and have one key: their path up to the first dot of the base name, so
`a/0001.jpg` and `b/0001.jpg` are two. What follows the dot is the suffix, in lower case. Folders, hidden files (macOS'
`._0001.jpg`), names without a dot and `__notes__` belong to no sample (webdataset 1.0, `tariterators.py`; a hidden file
in a folder would be a sample of its own there). Headers are not believed: sizes, checksums and the end are checked.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from schemas.errors import CorruptDataError

MAX_MEMBER_BYTES = 256 * 2**20
_MAX_SIZE = 2**50  # larger ones overflow what files and tarfile count with
_MAX_NAME_BYTES = 2**20  # of a long name, or of a pax header
_NAMES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
END_MARK = bytes(2 * tarfile.BLOCKSIZE)
_MAX_PADDING_BYTES = 2**20
_NOTES = re.compile(r"__[^/]*__($|/)")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstandard"}
_KINDS = {
    tarfile.SYMTYPE: "symbolic link",
    tarfile.LNKTYPE: "hard link",
    tarfile.CHRTYPE: "device",
    tarfile.BLKTYPE: "device",
    tarfile.FIFOTYPE: "FIFO",
    tarfile.DIRTYPE: "folder",
}


class DamagedTarError(CorruptDataError):
    """A tar that is not whole. problem: what is wrong, where the file is known already. Raised behind the last member
    that is whole, so that whoever wants to may use what came before."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}")
        self.problem = problem


@dataclass(frozen=True)
class Member:
    """One entry of a tar. start, stop: its whole records; offset, size: its bytes. oddity: what it is where it is no
    plain file ("symbolic link"), "" for a plain one."""

    name: str
    start: int
    stop: int
    offset: int
    size: int
    oddity: str

    @property
    def key(self) -> str:
        return split_member_name(self.name)[0]

    @property
    def suffix(self) -> str:
        return split_member_name(self.name)[1]

    def read(self, file: BinaryIO, where: str, max_bytes: int = MAX_MEMBER_BYTES) -> bytes:
        """All of it. CorruptDataError for what is no plain file, too large, or cut short."""
        if self.oddity:
            raise CorruptDataError(f"{where}: member {self.name!r} is not a plain file but a {self.oddity}")
        if self.size > max_bytes:
            raise CorruptDataError(f"{where}: member {self.name!r} says {self.size:,} bytes; at most {max_bytes:,}")
        file.seek(self.offset)
        body = file.read(self.size)
        if len(body) != self.size:
            raise CorruptDataError(f"{where}: member {self.name!r} is cut short")
        return body


def split_member_name(name: str) -> tuple[str, str]:
    """Key and suffix of a member as WebDataset has them."""
    folder, slash, base = name.rpartition("/")
    key, _, suffix = base.partition(".")
    return f"{folder}{slash}{key}", suffix.lower()


def tar_members(file: BinaryIO, where: str, start: int = 0) -> Iterator[Member]:
    """Every entry of a tar, in order, from the header at byte `start` on; no entry's bytes are read.

    DamagedTarError behind the last one where it is cut short, a header is none, a size impossible, or the end mark
    missing; where bytes that are no padding follow the end mark; for a compressed tar.
    """
    num_bytes = file.seek(0, 2)
    _refuse_compressed(file, where)
    file.seek(start)
    end = start
    try:
        with tarfile.open(fileobj=file, mode="r:", tarinfo=_CheckedHeader) as tar:
            while (info := tar.next()) is not None:
                tar.members = []  # pyright: ignore[reportAttributeAccessIssue] - else it keeps all of a tar of millions
                if not 0 <= info.size < _MAX_SIZE:
                    raise DamagedTarError(where, f"no whole tar file (member {info.name!r} says {info.size:,} bytes)")
                end = tar.offset
                yield Member(info.name, info.offset, end, info.offset_data, info.size, _oddity(info))
                if end > num_bytes:
                    raise DamagedTarError(where, f"no whole tar file (member {info.name!r} is cut short)")
    except (tarfile.TarError, EOFError, ValueError, IndexError, RecursionError) as error:
        raise DamagedTarError(where, f"no whole tar file ({error} behind byte {end:,})") from error
    file.seek(end)
    if file.read(len(END_MARK)) != END_MARK:
        raise DamagedTarError(where, "the tar has no end mark: it was cut short")
    left = num_bytes - end - len(END_MARK)
    if left > _MAX_PADDING_BYTES or file.read(left).strip(b"\0"):
        raise DamagedTarError(where, f"{left:,} bytes follow the tar's end mark and are not read")


def tar_samples(file: BinaryIO, where: str, start: int = 0) -> Iterator[list[Member]]:
    """The members of one sample after the other, as WebDataset groups them. DamagedTarError, as `tar_members`, behind
    the last sample, of which then a part may be missing."""
    group: list[Member] = []
    damage: DamagedTarError | None = None
    try:
        for member in tar_members(file, where, start):
            if not of_a_sample(member):
                continue
            if group and member.key != group[0].key:
                yield group
                group = []
            group.append(member)
    except DamagedTarError as error:
        damage = error
    if group:
        yield group
    if damage is not None:
        raise damage


def of_a_sample(member: Member) -> bool:
    """False for what WebDataset passes over."""
    base = member.name.rpartition("/")[2]
    passed_over = member.oddity == "folder" or _NOTES.match(member.name) is not None
    return not passed_over and "." in base and not base.startswith(".")


def _oddity(info: tarfile.TarInfo) -> str:
    if info.issparse():
        return "sparse file"
    return "" if info.isreg() else _KINDS.get(info.type, "special file")


class _CheckedHeader(tarfile.TarInfo):
    """Of a header that is none, tarfile says nothing and ends; one whose size is negative it reads for ever."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _CheckedHeader:
        try:
            found = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and any(buf):
                raise tarfile.ReadError(f"{error} in a header") from None
            raise
        most = _MAX_NAME_BYTES if found.type in _NAMES else _MAX_SIZE
        if not 0 <= found.size < most:
            raise tarfile.ReadError(f"a header says {found.size:,} bytes")
        return found


def _refuse_compressed(file: BinaryIO, where: str) -> None:
    file.seek(0)
    start = file.read(6)
    for mark, kind in _COMPRESSED.items():
        if start.startswith(mark):
            raise DamagedTarError(
                where, f"no whole tar file: it is compressed ({kind}); samples are read in any order, so unpack it"
            )
