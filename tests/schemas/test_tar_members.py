"""Tars of strangers: grouped as webdataset itself groups them, and headers that say what cannot be."""

import contextlib
import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from webdataset.tariterators import group_by_keys, tar_file_expander

from schemas.errors import CorruptDataError
from schemas.tar_members import DamagedTarError, tar_members, tar_samples
from tests.support.foreign_tars import CASES, damaged, tar_of


def ours(data):
    file = io.BytesIO(data)
    return [(group[0].key, [(m.suffix, m.read(file, "x.tar")) for m in group]) for group in tar_samples(file, "x.tar")]


def theirs(data):
    """What webdataset makes of it, hidden files aside; None where it says that a name comes twice."""
    files = tar_file_expander(
        [{"url": "x.tar", "stream": io.BytesIO(data)}],
        select_files=lambda name: not name.rpartition("/")[2].startswith("."),
    )
    try:
        samples = list(group_by_keys(files))
    except ValueError:
        return None
    return [(s["__key__"], [(k, v) for k, v in s.items() if not k.startswith("__")]) for s in samples]


names = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "a/", "b/", "./", "a.b/", "a/b/", "__notes__/", "d" * 120 + "/"]),
    st.sampled_from(["0001", "0002", "0001", "ä", "._0001", ".hidden", "__notes__", "e" * 110]),
    st.sampled_from(["", ".", ".txt", ".TXT", ".json", ".src_img.jpg", ".Src_Img.PNG", "..x"]),
)
formats = st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(names, st.binary(max_size=600)), max_size=7), st.booleans(), formats)
def test_samples_are_those_that_webdataset_makes_of_the_same_tar(entries, with_folder, kind):
    folder = tarfile.TarInfo("a")
    folder.type = tarfile.DIRTYPE
    if kind == tarfile.USTAR_FORMAT:
        entries = [(name, body) for name, body in entries if len(name) < 100]
    data = tar_of(*([(folder, b"")] if with_folder else []), *entries, format=kind)
    wanted, found = theirs(data), ours(data)
    if wanted is None:
        assert any(len(dict(members)) < len(members) for _, members in found)
    else:
        assert found == wanted


def test_macs_hidden_files_do_not_split_a_sample():
    data = tar_of(("a/1.txt", b"t"), ("a/._1.txt", b"mac"), ("a/1.jpg", b"i"))
    assert ours(data) == [("a/1", [("txt", b"t"), ("jpg", b"i")])]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, b"Z"])
def test_what_is_no_plain_file_is_not_read(kind):
    info = tarfile.TarInfo("1.src_img.jpg")
    info.type, info.linkname = kind, "/etc/passwd"
    file = io.BytesIO(tar_of((info, b""), ("1.json", b"{}")))
    first, _ = next(tar_samples(file, "x.tar"))
    with pytest.raises(CorruptDataError, match=r"'1\.src_img\.jpg' is not a plain file but a "):
        first.read(file, "x.tar")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.timeout(120)
def test_a_tar_that_is_not_whole_is_named_behind_what_is_whole_of_it(case):
    data, says = damaged(case, [("1.txt", b"one"), ("2.txt", b"two" * 400)])
    file, found = io.BytesIO(data), []
    with pytest.raises(DamagedTarError, match=rf"^x\.tar: .*{says}"):
        found.extend(group[0].key for group in tar_samples(file, "x.tar"))
    assert found[:1] == ([] if case == "compressed" else ["1"])


def test_long_chains_of_long_names_end():
    one = tar_of(("n" * 150 + ".txt", b""), format=tarfile.GNU_FORMAT)[:1024]  # a header for the name, and the name
    with pytest.raises(DamagedTarError, match="no whole tar file"):
        list(tar_members(io.BytesIO(one * 5000), "x.tar"))


def test_a_name_of_gigabytes_is_not_read():
    data = bytearray(tar_of(("n" * 150 + ".txt", b""), format=tarfile.GNU_FORMAT))
    data[124:136] = b"17777777777\0"
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    with pytest.raises(DamagedTarError, match="a header says 2,147,483,647 bytes"):
        list(tar_members(io.BytesIO(bytes(data)), "x.tar"))


def test_a_size_of_a_pax_header_is_not_believed_either():
    info = tarfile.TarInfo("2.txt")
    info.pax_headers = {"size": "-512"}
    with pytest.raises(DamagedTarError, match="says -512 bytes"):
        list(tar_members(io.BytesIO(tar_of(("1.txt", b"one"), (info, b""))), "x.tar"))


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=1, max_size=40), st.integers(0, 3000))
@pytest.mark.timeout(240)
def test_broken_bytes_raise_nothing_but_corrupt_data(noise, at):
    data = tar_of(("1.txt", b"one"), ("n" * 150 + ".txt", b"two"), format=tarfile.PAX_FORMAT)
    broken = data[:at] + noise + data[at + len(noise) :]
    with contextlib.suppress(CorruptDataError):
        ours(broken)


def test_padding_is_no_bytes_behind_the_end():
    data = tar_of(("1.txt", b"one"))
    assert ours(data + bytes(20 * 512)) == ours(data)
