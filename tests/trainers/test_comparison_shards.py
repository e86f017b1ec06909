"""Published data as it lies on the hub: GenRef-wds and GenRef-CoT by folder, glob and hub id."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from schemas.errors import CorruptDataError, InputError
from tests.support.plain_shards import grey_jpeg
from trainers.comparison_shards import ComparisonMembers, side_of
from trainers.corrector import CorrectorTrainingConfig
from trainers.pair_labels import CONFIRMED, read_labels
from trainers.reflector import ReflectorConfig, lesson_of
from trainers.same_training import settings_of
from trainers.shard_dataset import EVEN_MIX, PairDataset, TrainingOrder
from trainers.shard_index import SampleReader, open_index, subset_counts
from trainers.verifier import VerifierTrainingConfig, choose_pairs

NAMES = ComparisonMembers()


def write_tar(path, samples):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, members in samples.items():
            for name, data in members.items():
                info = tarfile.TarInfo(f"{key}.{name}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def write_genref(folder, numbers=range(12)):
    """genref_0.tar ... with two triplets each, in the published members and one more."""
    for number in numbers:
        texts = {"reflection.txt": b"make it red", "subset.txt": b"rule\n", "license.txt": b"?"}
        images = {"good_image.jpg": grey_jpeg(1), "bad_image.jpg": grey_jpeg(2)}
        samples = {f"{number:04d}_{i}": images | texts | {"prompt.txt": f"{number} {i}".encode()} for i in range(2)}
        write_tar(folder / f"genref_{number}.tar", samples)
    return folder


def grid(left, right, size=8):
    image = np.full((size, 2 * size + 1, 3), left, np.uint8)
    image[:, size + 1 :] = right
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def comparison(result, **members):
    texts = {"prompt": "a star", "analysis": "One is red.", "instructions": "Make it red.", "result": result}
    return {"jpg": grid(10, 200), **{f"{name}.txt": text.encode() for name, text in texts.items()}, **members}


def in_hub_cache(monkeypatch, root, name):
    """Where `hf download` would have put a dataset of that name."""
    monkeypatch.setenv("HF_HUB_CACHE", str(root))
    repository = root / f"datasets--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    return repository / "snapshots" / ("0" * 40)


def test_genref_by_folder_glob_and_hub_id_is_the_same_in_the_order_of_its_numbers(tmp_path, monkeypatch):
    snapshot = write_genref(in_hub_cache(monkeypatch, tmp_path / "hub", "diffusion-cot/GenRef-wds"))
    whole = open_index("diffusion-cot/GenRef-wds")
    assert whole.shards == tuple(f"genref_{n}.tar" for n in range(12))
    assert subset_counts(whole)["rule"] == 24
    for place in (str(snapshot), f"{snapshot}/genref_*.tar", f"{snapshot.parent}/*"):
        found = open_index(place)
        assert [Path(name).name for name in found.shards] == list(whole.shards)
        assert (found.start == whole.start).all()
    assert [s.rpartition("/")[2] for s in open_index(f"{snapshot}/genref_1?.tar").shards] == [
        "genref_10.tar",
        "genref_11.tar",
    ]
    triplet = PairDataset(TrainingOrder(whole, EVEN_MIX, 4, 0))[0]
    assert (triplet.subset, triplet.reflection) == ("rule", "make it red")


def test_a_dataset_that_was_not_fetched_says_how_and_nothing_is_downloaded(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="hf download --repo-type dataset diffusion-cot/GenRef-wds") as refused:
        open_index("diffusion-cot/GenRef-wds")
    assert "209 tars of 8 GB" in str(refused.value)
    assert "licence: none was stated" in str(refused.value)


def test_a_training_by_hub_id_goes_on_from_wherever_it_is_started(tmp_path, monkeypatch):
    config = CorrectorTrainingConfig(data="diffusion-cot/GenRef-wds")
    write_genref(in_hub_cache(monkeypatch, tmp_path / "hub", "diffusion-cot/GenRef-wds"), range(1))
    before = settings_of(config)
    monkeypatch.chdir(tmp_path)
    assert settings_of(config) == before


@pytest.mark.parametrize("in_json", [False, True])
def test_a_comparison_is_a_triplet_whose_order_the_result_tells(tmp_path, in_json):
    samples = {"000": comparison("left"), "001": comparison("The right image is better.")}
    if in_json:
        for key, members in samples.items():
            texts = {name.removesuffix(".txt"): data.decode() for name, data in members.items() if name != "jpg"}
            samples[key] = {"image.png": members["jpg"], "json": json.dumps(texts | {"id": 7}).encode()}
    write_tar(tmp_path / "cot-0.tar", samples)
    index = open_index(str(tmp_path), tmp_path / "cache", NAMES)
    again = open_index(str(tmp_path), tmp_path / "cache", NAMES)
    assert again.comparisons == NAMES
    assert (again.subset == index.subset).all()
    dataset = PairDataset(TrainingOrder(index, EVEN_MIX, 4, 0))
    by_good = {int(t.good.mean()): t for t in (dataset[n] for n in range(2))}
    assert set(by_good) == {10, 200}
    for value, triplet in by_good.items():
        assert triplet.good.shape == triplet.bad.shape == (8, 8, 3)
        assert triplet.good.max() == value
        assert triplet.bad.min() == triplet.bad.max() == 210 - value
        assert (triplet.prompt, triplet.reflection, triplet.subset) == ("a star", "Make it red.", "general")
        assert triplet.cot["good_side"] == ("left" if value == 10 else "right")
    # The reflector learns to compare them as they lay, and to write the instructions of the worse one.
    words = ReflectorConfig(template="micro/reflect", compare_template="micro/compare", image_px=0, cot_share=1.0)
    compared = lesson_of(by_good[200], words, 0)
    assert compared.request.images[0][0, 0, 0] == 10
    assert json.loads(compared.answer)["Result"] == "right"
    alone = lesson_of(by_good[200], replace(words, cot_share=0.0), 0)
    assert (alone.request.images[0].max(), alone.answer) == (10, "Make it red.")
    # And the verifier takes all of them for confirmed.
    assert read_labels(index).verdict.tolist() == [CONFIRMED] * 2
    kept, account = choose_pairs(index, VerifierTrainingConfig(out=tmp_path, pairs="confirmed"))
    assert len(kept) == 2, account


@pytest.mark.parametrize(
    ("result", "side"),
    [
        ("left", "left"),
        ("Right.", "right"),
        ("B", "right"),
        ("Image 1", "left"),
        ("The second one", None),
        ("second", "right"),
        ("The left one is better", "left"),
        ("the left is redder, the right is better", None),
        ("same", None),
        ("", None),
    ],
)
def test_what_a_result_says(result, side):
    assert side_of(result) == side


def test_results_that_name_no_side_are_counted_and_never_drawn(tmp_path, caplog):
    write_tar(tmp_path / "a.tar", {"0": comparison("left"), "1": comparison("same"), "2": comparison("right")})
    index = open_index(str(tmp_path), comparisons=NAMES)
    assert "1 of 3 comparisons name no better side in 'result'" in caplog.text
    order = TrainingOrder(index, EVEN_MIX, 1, 0)
    assert {order.number_of(n) for n in range(8)} == {0, 2}


def test_other_member_names_are_flags_and_without_them_refused_with_what_was_found(tmp_path):
    members = comparison("left")
    members["verdict"] = members.pop("result.txt")
    members["depth.png"] = members["jpg"]
    write_tar(tmp_path / "a.tar", {"0": members})
    with pytest.raises(InputError, match=r"verdict, depth\.png; comparisons lack one image, result") as refused:
        open_index(str(tmp_path), comparisons=NAMES)
    assert refused.value.field == "--comparisons.*"
    named = ComparisonMembers(image="jpg", result="verdict")
    assert subset_counts(open_index(str(tmp_path), comparisons=named))["general"] == 1
    with pytest.raises(InputError, match="comparisons teach reflector and verifier"):
        open_index(str(tmp_path))  # as the corrector asks


def test_a_picture_that_is_no_pair_is_a_broken_sample(tmp_path):
    write_tar(tmp_path / "a.tar", {"0": comparison("left", jpg=grey_jpeg(3)), "1": comparison("left")})
    index = open_index(str(tmp_path), comparisons=NAMES)
    assert SampleReader().read(index, 0).good_image  # a square one may be two narrow pictures
    write_tar(tmp_path / "a.tar", {"0": comparison("left", jpg=np_png(9, 8)), "1": comparison("left")})
    with pytest.raises(CorruptDataError, match="8x9 pixels are no two pictures"):
        SampleReader().read(open_index(str(tmp_path), comparisons=NAMES), 0)


def np_png(height, width):
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
