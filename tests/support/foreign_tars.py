"""Tars as others pack them, and ways in which one is not whole."""

import gzip
import io
import tarfile


def tar_of(*entries, format=tarfile.PAX_FORMAT):
    """entries: (name or TarInfo, bytes)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for name, body in entries:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return buffer.getvalue()


def _with_size(header, size_field):
    header = bytearray(header)
    header[124:136] = size_field
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def _base256(size):
    return (b"\xff" if size < 0 else b"\x80") + (size % 2**88).to_bytes(11, "big")


CASES = {
    "negative size": "a header says -512 bytes",
    "huge size": "a header says 1,152,921,504,606,846,976 bytes",
    "larger than the file": "is cut short",
    "no number": "invalid header in a header",
    "bad checksum": "bad checksum in a header",
    "cut in its last member": "is cut short",
    "cut in a header": "no end mark",
    "no end mark": "no end mark",
    "half an end mark": "no end mark",
    "bytes behind": "512 bytes follow the tar's end mark",
    "another tar behind": "bytes follow the tar's end mark",
    "compressed": "it is compressed .gzip.",
}
"""What is wrong, and what is said of it."""


def damaged(case, entries):
    """(bytes, what is said) of a tar in USTAR form, whose last member has a header that lies, or whose end is none."""
    data = tar_of(*entries, format=tarfile.USTAR_FORMAT)
    end = len(tar_of(*entries, format=tarfile.USTAR_FORMAT).rstrip(b"\0"))
    end = -(-end // 512) * 512
    name, body = entries[-1]
    at = end - 512 - -(-len(body) // 512) * 512
    header, rest = data[at : at + 512], data[at + 512 :]
    assert header.startswith(name.encode())
    changed = {
        "negative size": lambda: data[:at] + _with_size(header, _base256(-512)) + rest,
        "huge size": lambda: data[:at] + _with_size(header, _base256(2**60)) + rest,
        "larger than the file": lambda: data[:at] + _with_size(header, b"00000100000\0") + rest,
        "no number": lambda: data[:at] + _with_size(header, b"notoctal!!!\0") + rest,
        "bad checksum": lambda: data[:at] + header[:100] + b"9" + header[101:] + rest,
        "cut in its last member": lambda: data[: end - 600],
        "cut in a header": lambda: data[: at + 200],
        "no end mark": lambda: data[:end],
        "half an end mark": lambda: data[: end + 512],
        "bytes behind": lambda: data[: end + 1024] + b"x" * 512,
        "another tar behind": lambda: data + data,
        "compressed": lambda: gzip.compress(data),
    }[case]
    return changed(), CASES[case]
