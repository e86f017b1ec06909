import contextlib
import hashlib
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import CorruptDataError
from schemas.images import decode_image, encode_jpeg, encode_png
from schemas.shards import ShardSample, decode_shard, encode_shard, member_digests, read_members, read_samples
from tests.support.rows import image

GOLDEN = Path(__file__).parents[1] / "golden" / "shard.sha256"


def sample(number: int, image_format: str = "png") -> ShardSample:
    encode = encode_png if image_format == "png" else encode_jpeg
    return ShardSample(
        key=f"u{number:06d}-r000-p00",
        good_image=encode(image(2 * number)),
        bad_image=encode(image(2 * number + 1)),
        reflection="Draw the square red, not blue.",
        prompt="ein rotes Quadrat — 赤い四角",
        subset="rule",
        meta={"prompt_id": f"p{number}", "difficulty": 0.5},
        image_format=image_format,
    )


SAMPLES = [sample(number) for number in range(3)]
SHARD = encode_shard(SAMPLES)

samples = st.builds(
    ShardSample,
    key=st.from_regex(r"[A-Za-z0-9_-]{1,40}", fullmatch=True),
    good_image=st.binary(max_size=700),
    bad_image=st.binary(max_size=700),
    reflection=st.text(st.characters(exclude_categories=("Cs",)), max_size=50),
    prompt=st.text(st.characters(exclude_categories=("Cs",)), max_size=50),
    subset=st.sampled_from(["rule", "general", "length", "editing"]),
    cot=st.none() | st.just({"verdict": "left"}),
    meta=st.none() | st.dictionaries(st.text("ab"), st.integers() | st.none() | st.floats(allow_nan=False)),
    image_format=st.sampled_from(["jpg", "png"]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(samples, max_size=4, unique_by=lambda s: s.key))
def test_samples_come_back_from_a_shard_in_their_order(written):
    assert decode_shard(encode_shard(written), "shard") == written


def test_equal_samples_give_equal_bytes():
    assert encode_shard([sample(number) for number in range(3)]) == SHARD


def test_the_bytes_of_a_fixed_shard_are_what_they_were():
    """PNG bytes depend on Pillow's zlib, so the members here are plain bytes: this is about the tar."""
    fixed = [replace(s, good_image=b"good" * 200, bad_image=b"bad" * 200) for s in SAMPLES]
    assert hashlib.sha256(encode_shard(fixed)).hexdigest() == GOLDEN.read_text().split()[0]


def test_members_of_a_sample_are_adjacent_and_named_as_published_loaders_read_them():
    names = [name for name, _ in read_members(SHARD, "shard")]
    suffixes = [
        "good_image.png",
        "bad_image.png",
        "reflection.txt",
        "prompt.txt",
        "subset.txt",
        "meta.json",
        "cot.json",
    ]
    assert names == [f"{s.key}.{suffix}" for s in SAMPLES for suffix in suffixes]


def test_member_digests_are_those_of_what_lies_in_the_tar():
    found = {name: hashlib.sha256(body).hexdigest() for name, body in read_members(SHARD, "shard")}
    assert member_digests(SAMPLES) == found


@pytest.mark.parametrize("key", ["", "a/b", "../a", "a.b", "ä", "a" * 101])
def test_malformed_keys_are_not_written(key):
    with pytest.raises(ValueError, match="malformed or not unique"):
        encode_shard([replace(SAMPLES[0], key=key)])


def test_a_key_is_written_once():
    with pytest.raises(ValueError, match="not unique"):
        encode_shard([SAMPLES[0], SAMPLES[0]])


@pytest.fixture
def shard_file(tmp_path) -> Path:
    path = tmp_path / "genref_000000.tar"
    path.write_bytes(encode_shard([sample(number, "jpg") for number in range(3)]))
    return path


def test_plain_webdataset_reads_the_five_members(shard_file):
    import webdataset

    found = list(webdataset.WebDataset(str(shard_file), shardshuffle=False).decode("rgb8"))
    assert [s["__key__"] for s in found] == [s.key for s in SAMPLES]
    for number, s in enumerate(found):
        assert (s["good_image.jpg"] == decode_image(encode_jpeg(image(2 * number)))).all()
        assert s["bad_image.jpg"].shape == (8, 8, 3)
        assert s["reflection.txt"] == SAMPLES[number].reflection
        assert s["prompt.txt"] == SAMPLES[number].prompt
        assert s["subset.txt"] == "rule"


def test_hugging_face_datasets_reads_the_five_members(shard_file, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    import datasets

    loaded: Any = datasets.load_dataset(
        "webdataset", data_files={"train": str(shard_file)}, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded["__key__"] == [s.key for s in SAMPLES]
    for number, s in enumerate(loaded):
        assert s["good_image.jpg"].size == s["bad_image.jpg"].size == (8, 8)
        assert s["reflection.txt"] == SAMPLES[number].reflection
        assert s["prompt.txt"] == SAMPLES[number].prompt
        assert s["subset.txt"] == "rule"
        assert s["meta.json"] == SAMPLES[number].meta


# Tars that are not ours


def tar_of(*members: tuple[tarfile.TarInfo, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for info, body in members:
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return buffer.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    "info",
    [
        member("../evil.prompt.txt"),
        member("/etc/evil.prompt.txt"),
        member("folder/a.prompt.txt"),
        member("..\\evil.prompt.txt"),
        member(".."),
        member("." * 3 + "/" + "a" * 300),
        member("a.prompt.txt", tarfile.SYMTYPE, "/etc/passwd"),
        member("a.prompt.txt", tarfile.LNKTYPE, "../../etc/passwd"),
        member("a.prompt.txt", tarfile.CHRTYPE),
        member("a.prompt.txt", tarfile.BLKTYPE),
        member("a.prompt.txt", tarfile.FIFOTYPE),
        member("a", tarfile.DIRTYPE),
        member("a.prompt.txt", b"Z"),
    ],
    ids=lambda info: f"{info.type.decode()}-{info.name[:20]}",
)
def test_members_that_are_no_plain_files_in_the_root_are_refused(info, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CorruptDataError, match=r"shard 4: .*(not a plain file|lacks)"):
        decode_shard(tar_of((info, b"")), "shard 4")
    assert list(tmp_path.iterdir()) == []


def test_a_member_that_comes_twice_is_refused():
    twice = tar_of((member("a.prompt.txt"), b"one"), (member("a.prompt.txt"), b"two"))
    with pytest.raises(CorruptDataError, match=r"'a\.prompt\.txt' comes twice"):
        decode_shard(twice, "shard")


def test_members_of_a_sample_that_do_not_lie_together_are_refused():
    first, second = ([(member(name), body) for name, body in sample.members()] for sample in SAMPLES[:2])
    with pytest.raises(CorruptDataError, match="does not lie beside the others"):
        decode_shard(tar_of(*first[:-1], *second, first[-1]), "shard")


def test_samples_of_a_file_come_one_by_one(tmp_path):
    path = tmp_path / "shard.tar"
    path.write_bytes(SHARD)
    with open(path, "rb") as file:
        samples = read_samples(file, "shard")
        assert next(samples) == SAMPLES[0]
        assert file.tell() < len(SHARD)
        assert list(samples) == SAMPLES[1:]


def with_size(size_field: bytes) -> bytes:
    """A tar whose one member says another size, with the right checksum."""
    data = bytearray(tar_of((member("a.prompt.txt"), b"body"), format=tarfile.USTAR_FORMAT))
    data[124:136] = size_field
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


@pytest.mark.parametrize(
    "size_field",
    [
        b"77777777777\0",
        b"\x80" + (2**62).to_bytes(11, "big"),
        b"\xff" + (-1024 % 2**88).to_bytes(11, "big"),
        b"00000100000\0",
        b"notoctal!!!\0",
    ],
    ids=["8 GiB", "4 EiB", "negative", "longer than the tar", "no number"],
)
@pytest.mark.timeout(120)
def test_a_member_with_an_impossible_size_is_refused(size_field):
    with pytest.raises(CorruptDataError, match="shard 4"):
        decode_shard(with_size(size_field), "shard 4")


def test_a_sparse_member_that_would_unfold_to_zeros_is_refused():
    info = member("a.prompt.txt")
    info.pax_headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.map": "0,0",
        "GNU.sparse.size": "9" * 9,
    }
    with pytest.raises(CorruptDataError, match="shard 4"):
        decode_shard(tar_of((info, b"")), "shard 4")


def test_a_truncated_shard_is_noticed_wherever_it_was_cut():
    end = SHARD.rstrip(b"\0")
    whole = -(-len(end) // 512) * 512 + 1024
    assert decode_shard(SHARD[:whole], "shard") == SAMPLES  # what follows is padding
    for cut in range(0, whole, 37):
        with pytest.raises(CorruptDataError, match="shard 4"):
            decode_shard(SHARD[:cut], "shard 4")


def test_a_shard_cut_after_a_member_of_zeros_is_noticed():
    zeros = replace(SAMPLES[0], meta=None, image_format="png", subset="rule", prompt="\0" * 4096)
    data = encode_shard([zeros])
    cut = data.index(b"subset.txt") // 512 * 512
    assert data[:cut].endswith(bytes(1024))
    with pytest.raises(CorruptDataError, match="no end mark"):
        decode_shard(data[:cut], "shard")


@settings(max_examples=150, deadline=None)
@given(st.binary(min_size=1, max_size=30), st.integers(0, len(SHARD) - 1))
def test_broken_bytes_raise_nothing_but_corrupt_data(noise, at):
    broken = SHARD[:at] + noise + SHARD[at + len(noise) :]
    with contextlib.suppress(CorruptDataError):
        decode_shard(broken, "shard")


@pytest.mark.parametrize("missing", ["good_image.png", "reflection.txt", "subset.txt"])
def test_a_sample_that_lacks_a_member_is_named(missing):
    kept = [(member(name), body) for name, body in SAMPLES[1].members() if not name.endswith(missing)]
    with pytest.raises(CorruptDataError, match=rf"{SAMPLES[1].key}.* lacks {missing.removesuffix('.png')}"):
        decode_shard(tar_of(*kept), "shard")


@pytest.mark.parametrize("meta", [b"{", b"[" * 100_000, b"\xff", b"1" * 5000], ids=["cut", "deep", "bytes", "digits"])
def test_a_meta_member_that_is_no_json_is_refused(meta):
    members = [(member(name), meta if name.endswith("json") else body) for name, body in SAMPLES[1].members()]
    with pytest.raises(CorruptDataError, match=SAMPLES[1].key):
        decode_shard(tar_of(*members), "shard")


def test_published_shards_without_meta_are_read():
    published = replace(SAMPLES[0], meta=None)
    members = [(member(name), body) for name, body in published.members()]
    assert decode_shard(tar_of(*members, format=tarfile.GNU_FORMAT), "shard") == [published]


def test_meta_keeps_text_readable():
    body = dict(read_members(encode_shard([replace(SAMPLES[0], meta={"b": "é", "a": 1})]), "shard"))
    assert body[f"{SAMPLES[0].key}.meta.json"].decode() == json.dumps({"a": 1, "b": "é"}, ensure_ascii=False)
