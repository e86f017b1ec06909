"""Training order: every triplet once before one comes again, whatever the ranks, and the same after a restart."""

import io
import os
import re
import tarfile
import uuid
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import CorruptDataError, InputError, WorkFailedError
from schemas.open_storage import open_storage
from schemas.shards import encode_shard
from tests.support.foreign_tars import CASES, damaged, tar_of
from tests.support.plain_shards import grey_jpeg, plain_sample, write_shards
from tests.support.s3_server import ENVIRONMENT, shared_server
from trainers.shard_dataset import EVEN_MIX, MixSchedule, PairDataset, PairLoader, TrainingOrder, hold_out, rank_numbers
from trainers.shard_index import SUBSETS, SampleReader, ShardIndex, open_index, subset_counts


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    subsets = ["general"] * 20 + ["rule"] * 13 + ["length"] * 5 + ["editing"] * 9
    order = np.random.default_rng(0).permutation(len(subsets))
    return open_index(str(write_shards(tmp_path_factory.mktemp("shards"), [subsets[i] for i in order])))


def test_an_index_knows_every_sample_of_every_shard(index):
    assert len(index) == 47
    assert subset_counts(index) == {"rule": 13, "general": 20, "length": 5, "editing": 9}
    found = {SampleReader().read(index, n).key for n in range(len(index))}
    assert len(found) == 47


def test_a_reader_takes_any_order_and_more_shards_than_it_keeps_open(tmp_path, monkeypatch):
    monkeypatch.setattr("trainers.shard_index.OPEN_SHARDS", 2)
    found = open_index(str(write_shards(tmp_path, ["rule"] * 12, per_shard=3)))
    reader, order = SampleReader(), np.random.default_rng(1).integers(12, size=40)
    assert [reader.read(found, n).reflection for n in order] == [f"reflection {n}" for n in order]
    child = os.fork()
    if not child:  # reads on, and does not disturb what its parent reads
        os._exit(sum(reader.read(found, n).reflection != f"reflection {n}" for n in range(12)))
    assert [reader.read(found, n).reflection for n in order] == [f"reflection {n}" for n in order]
    assert os.waitpid(child, 0)[1] == 0


def test_an_index_is_cached_until_a_shard_changes(tmp_path):
    folder = write_shards(tmp_path / "shards", ["rule"] * 9)
    first = open_index(str(folder), tmp_path / "cache")
    (cached,) = (tmp_path / "cache").glob("shard_index_*")
    stamp = cached.stat().st_mtime_ns
    again = open_index(str(folder), tmp_path / "cache")
    assert cached.stat().st_mtime_ns == stamp
    assert (again.start == first.start).all()
    write_shards(folder, ["rule"] * 12)
    assert len(open_index(str(folder), tmp_path / "cache")) == 12


def published(keys, subset=b"general"):
    """A tar as others make them: no `meta.json`, and whatever folders are in the keys."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for key in keys:
            if "/" in key:
                folder = tarfile.TarInfo(key.rpartition("/")[0])
                folder.type = tarfile.DIRTYPE
                tar.addfile(folder)
            members = {"good_image.jpg": grey_jpeg(1), "bad_image.jpg": grey_jpeg(2), "reflection.txt": b"r"}
            for name, data in (members | {"prompt.txt": key.encode(), "subset.txt": subset}).items():
                info = tarfile.TarInfo(f"{key}.{name}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize("keys", [("000", "001"), ("./000", "./001"), ("a.b/000", "a.b/001"), ("a/000", "b/000")])
def test_published_shards_are_indexed_too_whatever_folders_their_members_lie_in(tmp_path, keys):
    (tmp_path / "genref_0.tar").write_bytes(published(keys))
    found = open_index(str(tmp_path / "genref_0.tar"))
    assert subset_counts(found)["general"] == 2
    dataset = PairDataset(TrainingOrder(found, EVEN_MIX, 1, 0))
    assert {dataset[n].prompt for n in range(2)} == set(keys)
    assert dataset.num_broken == 0
    assert dataset[5].cot is None


def test_of_a_shard_that_was_cut_the_whole_samples_are_used_and_it_is_named(tmp_path, caplog):
    whole = open_index(str(write_shards(tmp_path / "whole", ["rule"] * 8, per_shard=8)))
    data = (tmp_path / "whole" / "genref_000000.tar").read_bytes()
    ends = whole.stop.tolist()
    (tmp_path / "cut").mkdir()
    # In a header, in a member, between two members, after a sample's last byte, and in the end mark.
    middle = (ends[4] + ends[5]) // 2 // 512 * 512
    for cut, left in ((middle + 100, 5), (ends[5] - 100, 5), (middle, 5), (ends[5], 6), (ends[7] + 512, 8)):
        caplog.clear()
        (tmp_path / "cut" / "genref_000000.tar").write_bytes(data[:cut])
        found, again = (open_index(str(tmp_path / "cut"), tmp_path / "cache") for _ in range(2))  # named both times
        assert found.stop.tolist() == again.stop.tolist() == ends[:left]
        said = [record.getMessage() for record in caplog.records]
        assert len(said) == 2
        assert "cut/genref_000000.tar: cut short or damaged" in said[0]
        assert f"its first {left} samples are used" in said[0]
        assert all(SampleReader().read(found, n).reflection == f"reflection {n}" for n in range(left))
    (tmp_path / "cut" / "genref_000000.tar").write_bytes(data[:100])
    with pytest.raises(CorruptDataError, match="no whole tar"):
        open_index(str(tmp_path / "cut"))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.timeout(120)
def test_a_shard_with_a_header_that_lies_is_named_and_what_is_whole_before_it_used(tmp_path, caplog, case):
    members = [one for number in range(3) for one in plain_sample(number, "rule").members()]
    data, says = damaged(case, [*members, ("u000009.prompt.txt", b"x" * 600)])
    (tmp_path / "genref_0.tar").write_bytes(data)
    if case == "compressed":
        with pytest.raises(CorruptDataError, match=rf"genref_0\.tar: .*{says}"):
            open_index(str(tmp_path))
        return
    found = open_index(str(tmp_path))
    assert [SampleReader().read(found, n).reflection for n in range(3)] == [f"reflection {n}" for n in range(3)]
    said = [record.getMessage() for record in caplog.records if "cut short or damaged" in record.getMessage()]
    assert len(said) == 1
    assert re.search(says, said[0])


def test_members_with_upper_case_suffixes_hidden_files_and_equal_names_in_folders_are_as_webdataset_has_them(tmp_path):
    members = []
    for key, number in (("a/1", 1), ("b/1", 2)):
        for name, data in plain_sample(number, "rule", meta=None, key="x").members():
            members += [(f"{key}.{name.partition('.')[2].upper()}", data), (f"{key[:2]}._1.prompt.txt", b"of a Mac")]
    (tmp_path / "genref_0.tar").write_bytes(tar_of(("LICENSE", b"free"), *members))
    found = open_index(str(tmp_path))
    assert [SampleReader().read(found, n).prompt for n in range(len(found))] == ["prompt 1", "prompt 2"]


def test_a_shard_whose_samples_lie_apart_is_refused_with_the_cause(tmp_path):
    first, second = (plain_sample(number, "rule").members() for number in range(2))
    (tmp_path / "genref_0.tar").write_bytes(tar_of(*first[:-2], *second, *first[-2:]))
    with pytest.raises(CorruptDataError, match="members of sample 'u000000-r000-p00' do not lie beside each other"):
        open_index(str(tmp_path))
    by_member = sorted([*first, *second], key=lambda member: member[0].partition(".")[2])
    (tmp_path / "genref_0.tar").write_bytes(tar_of(*by_member))
    with pytest.raises(CorruptDataError, match="do not lie beside each other"):
        open_index(str(tmp_path))


def test_a_member_that_is_a_link_breaks_its_sample_alone(tmp_path):
    link = tarfile.TarInfo("u000000-r000-p00.bad_image.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    first, second = (plain_sample(number, "rule").members() for number in range(2))
    (tmp_path / "genref_0.tar").write_bytes(tar_of(first[0], (link, b""), *first[2:], *second))
    found = open_index(str(tmp_path))
    assert SampleReader().read(found, 1).prompt == "prompt 1"
    with pytest.raises(CorruptDataError, match="is not a plain file but a symbolic link"):
        SampleReader().read(found, 0)


def test_meta_that_is_no_object_is_said(tmp_path):
    members = plain_sample(0, "rule").members()
    bad = [(name, b"[1]" if name.endswith("meta.json") else data) for name, data in members]
    (tmp_path / "genref_0.tar").write_bytes(tar_of(*bad))
    with pytest.raises(
        CorruptDataError, match=r"genref_0\.tar.*its meta\.json: is JSON, but a list; expected: a JSON object"
    ):
        SampleReader().read(open_index(str(tmp_path)), 0)


@pytest.mark.parametrize("name", ["genref_0.tar.gz", "genref_0.tgz", "genref_0.tar.zst"])
def test_compressed_shards_are_named_as_that(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    for place in (tmp_path, tmp_path / name):
        with pytest.raises(InputError, match=f"{name}: it is compressed"):
            open_index(str(place))


def test_a_shard_is_a_regular_file(tmp_path):
    os.mkfifo(tmp_path / "genref_0.tar")
    for place in (tmp_path, tmp_path / "genref_0.tar"):
        with pytest.raises(InputError, match="no regular file"):
            open_index(str(place))


def test_samples_of_no_known_subset_are_counted_and_the_known_ones_named(tmp_path, caplog):
    folder = write_shards(tmp_path / "shards", ["rule", "rules", "other"] * 2)
    found, _ = (open_index(str(folder), tmp_path / "cache") for _ in range(2))
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert said[0].startswith("4 of 6 samples are of no known subset")
    assert "none of rule, general, length, editing" in said[0]
    order = TrainingOrder(found, EVEN_MIX, 4, 0)
    assert {order.number_of(n) for n in range(20)} == {0, 3}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 100), world=st.integers(1, 5), first=st.integers(0, 300))
def test_ranks_share_the_samples_without_overlap_or_loss(index, seed, world, first):
    order = TrainingOrder(index, EVEN_MIX, 8, seed)
    together = [order.number_of(n) for n in rank_numbers(first, first + 120)]
    apart = {}
    for rank in range(world):
        mine = TrainingOrder(index, EVEN_MIX, 8, seed)
        apart |= {n: mine.number_of(n) for n in rank_numbers(first, first + 120, rank, world)}
    assert [apart[n] for n in range(first, first + 120)] == together


def test_every_triplet_of_a_subset_comes_once_before_one_comes_again(index):
    order = TrainingOrder(index, EVEN_MIX, 8, 3)
    seen = {name: [] for name in SUBSETS}
    for n in range(600):
        seen[order.subset_of(n)].append(order.number_of(n))
    for name, numbers in seen.items():
        size = subset_counts(index)[name]
        assert len(numbers) > 2 * size
        for epoch in range(len(numbers) // size):
            assert len(set(numbers[epoch * size : (epoch + 1) * size])) == size
        assert numbers[:size] != numbers[size : 2 * size]


def test_many_numbers_at_once_are_the_numbers_one_by_one(index):
    order, one = TrainingOrder(index, MixSchedule(steps=100), 8, 4), TrainingOrder(index, MixSchedule(steps=100), 8, 4)
    for samples in (np.arange(0, 700, 3), np.arange(4000, 4200), np.array([9000, 5, 4096])):
        assert order.numbers_of(samples).tolist() == [one.number_of(int(n)) for n in samples]


def test_the_order_depends_on_the_seed_and_any_position_can_be_asked_first(index):
    one, other = TrainingOrder(index, EVEN_MIX, 8, 1), TrainingOrder(index, EVEN_MIX, 8, 2)
    assert [one.number_of(n) for n in range(50)] != [other.number_of(n) for n in range(50)]
    late = TrainingOrder(index, EVEN_MIX, 8, 1)
    assert [late.number_of(n) for n in (9000, 4096, 4095, 3)] == [one.number_of(n) for n in (9000, 4096, 4095, 3)]


def test_the_mix_moves_from_editing_to_the_others_as_published(index):
    order = TrainingOrder(index, MixSchedule(steps=100), 100, 0)
    first = Counter(order.subset_of(n) for n in range(500))
    last = Counter(order.subset_of(n) for n in range(20_000, 24_000))
    assert 0.6 < first["editing"] / 500 < 0.8
    assert last["editing"] == 0
    assert last["rule"] / 4000 == pytest.approx(0.4, abs=0.03)


def test_subsets_that_are_not_there_leave_their_share_to_the_others(tmp_path):
    found = open_index(str(write_shards(tmp_path, ["rule"] * 3)))
    order = TrainingOrder(found, MixSchedule(), 4, 0)
    assert {order.subset_of(n) for n in range(100)} == {"rule"}
    with pytest.raises(InputError, match="no triplet of the subsets general"):
        TrainingOrder(found, MixSchedule({"general": 1.0}, {"general": 1.0}), 4, 0)


def test_a_broken_sample_is_named_counted_and_replaced(tmp_path, caplog):
    found = open_index(str(write_shards(tmp_path, ["rule"] * 10, broken=(3, 4))))
    dataset = PairDataset(TrainingOrder(found, EVEN_MIX, 4, 0))
    triplets = [dataset[n] for n in range(30)]
    assert dataset.num_broken >= 6
    assert [t.number for t in triplets] == list(range(30))
    assert not {"prompt 3", "prompt 4"} & {t.prompt for t in triplets}
    assert sum("u000003" in r.getMessage() for r in caplog.records) == 1
    again = PairDataset(TrainingOrder(found, EVEN_MIX, 4, 0))
    assert [again[n].prompt for n in range(30)] == [t.prompt for t in triplets]
    hopeless = open_index(str(write_shards(tmp_path / "b", ["rule"] * 3, broken=(0, 1, 2))))
    with pytest.raises(WorkFailedError, match="do not read"):
        PairDataset(TrainingOrder(hopeless, EVEN_MIX, 4, 0))[0]


@pytest.mark.parametrize(
    "cot", [["a list"], {"thoughts": "x"}, {"analysis": "a", "good_side": "top", "instruction": "i"}]
)
def test_a_sample_with_a_foreign_chain_of_thought_is_a_broken_one(tmp_path, caplog, cot):
    foreign, ours = plain_sample(0, "rule", cot=cot), plain_sample(1, "rule")
    (tmp_path / "genref_0.tar").write_bytes(encode_shard([foreign, ours]))
    dataset = PairDataset(TrainingOrder(open_index(str(tmp_path)), EVEN_MIX, 4, 0))
    assert {dataset[n].prompt for n in range(10)} == {"prompt 1"}
    assert dataset.num_broken >= 5
    (said,) = [r.getMessage() for r in caplog.records]
    assert "u000000-r000-p00" in said
    assert "its cot.json is no comparison" in said


def test_loader_workers_give_the_same_samples_in_the_same_order(index):
    import torch

    def prompts(num_workers):
        dataset: Any = PairDataset(TrainingOrder(index, EVEN_MIX, 4, 5))
        loader = torch.utils.data.DataLoader(
            dataset, batch_size=4, sampler=range(8, 48), num_workers=num_workers, collate_fn=list
        )
        return [triplet.prompt for batch in loader for triplet in batch]

    assert prompts(0) == prompts(2)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_shards_of_an_object_store_give_the_same_samples(tmp_path, monkeypatch, num_workers):
    for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{shared_server().port}"}.items():
        monkeypatch.setenv(name, value)
    folder = write_shards(tmp_path / "shards", ["rule", "general", "length"] * 5, broken=(3,))
    uri = f"s3://bucket/{uuid.uuid4().hex}"
    for tar in sorted(folder.iterdir()):
        open_storage(uri).commit(f"shards/{tar.name}", tar.read_bytes())

    def triplets(data):
        loader = PairLoader(TrainingOrder(open_index(data, tmp_path / "cache"), EVEN_MIX, 4, 5), num_workers)
        found = [t for batch in loader.batches(8, 48, 4, 1, 2) for t in batch]
        return [(t.number, t.prompt, t.good.tobytes(), t.bad.tobytes()) for t in found], loader.num_broken

    local, remote = triplets(str(folder)), triplets(uri)
    assert remote == local
    assert len(local[0]) == 20
    assert local[1] > 0


def test_held_out_samples_are_no_training_samples(index):
    training, held = hold_out(index, 0.3, 0)
    assert len(training) + len(held) == len(index)
    assert not set(zip(training.shard, training.start, strict=True)) & set(zip(held.shard, held.start, strict=True))
    assert len(held) > 0


def test_a_share_above_zero_holds_something_out_however_small_the_dataset_is():
    def sizes(count, share, seed=0):
        rows = np.arange(count)
        return tuple(len(part) for part in hold_out(ShardIndex("", ("a",), rows * 0, rows, rows, rows), share, seed))

    assert sizes(400, 0.05) == (392, 8)  # of its 50 runs of eight none was drawn
    assert all(min(sizes(9, 0.01, seed)) > 0 for seed in range(20))
    assert sizes(8, 0.05) == (8, 0)
    assert sizes(400, 0.0) == (400, 0)
    drawn = np.random.default_rng([3, 62]).random(50) < 0.3
    assert sizes(400, 0.3, 3) == (8 * (~drawn).sum(), 8 * drawn.sum())


def test_a_place_without_shards_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no \.tar file"):
        open_index(str(tmp_path))
    with pytest.raises(InputError, match="no such file"):
        open_index(str(tmp_path / "a.tar"))


def test_a_schedule_that_ends_without_what_is_there_is_refused_before_the_first_step(tmp_path):
    found = open_index(str(write_shards(tmp_path, ["editing"] * 3)))
    with pytest.raises(InputError, match=r"at step 5000 of the schedule .*there are: editing"):
        TrainingOrder(found, MixSchedule(), 4, 0)
    TrainingOrder(found, MixSchedule(end={"editing": 0.1}), 4, 0)
