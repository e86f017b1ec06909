"""Pipelines of diffusers behind the commands: images, a dataset to its shards, a search; random weights."""

from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from commands import generate, run, search
from inference.generators.diffusers_generator import DiffusersGenerator, DiffusersGeneratorConfig
from inference.generators.pipeline_classes import PIPELINE_CLASSES
from schemas.errors import InputError
from schemas.image_size import ImageSize
from schemas.images import decode_image
from tests.support.tiny_models.__main__ import main as save_tiny
from tests.support.tiny_models.__main__ import saved_kinds
from tests.support.tiny_models.text_to_image import PIPELINES, save_pipeline

SLOW = ("GlmImagePipeline", "HunyuanImagePipeline")
CLASSES = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in PIPELINES]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Class -> its folder, made once."""
    return cache(lambda name: save_pipeline(name, tmp_path_factory.mktemp("tiny") / name))


def flags(prefix: str, folder: Path) -> list[str]:
    settings = {"model": folder, "device": "cpu", "dtype": "float32", "size-px": 32, "steps": 2, "batch-size": 3}
    if PIPELINE_CLASSES[folder.name].text_length is not None:
        settings["text-length"] = 200 if folder.name == "Flux2Pipeline" else 64
    chosen = [f"{prefix}.kind", "diffusers"]
    return chosen + [word for name, value in settings.items() for word in (f"{prefix}.diffusers.{name}", str(value))]


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_draws_by_the_command_and_one_image_as_among_others(name, saved, tmp_path):
    def drawn(number):
        out = tmp_path / str(number)
        words = [
            "--preset",
            "micro",
            "--num-images",
            str(number),
            "--out",
            str(out),
            *flags("--generator", saved(name)),
        ]
        assert generate.main(["a photo of a red star", *words]) == 0
        return [decode_image(path.read_bytes()) for path in sorted(out.glob("*.png"))]

    four = drawn(4)
    assert len({image.tobytes() for image in four}) == 4
    assert np.array_equal(drawn(3), four[:3])
    assert four[0].shape == (32, 32, 3)


def run_of(folder: Path, name: Path, *more: str) -> int:
    words = ["--run", str(folder), "--preset", "micro", "--subsets", "general", "--num-prompts", "2"]
    words += [
        "--num-threads",
        "1",
    ]  # two share out a batch by its rows: a pixel rounds otherwise in another place of it
    return run.main([*words, "--generate.candidates-per-prompt", "3", *flags("--generate.generator", name), *more])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "ZImagePipeline" else pytest.mark.slow) for name in PIPELINES]
)
def test_a_dataset_is_drawn_and_packed_with_sizes_and_steps_as_asked(name, saved, tmp_path):
    assert run_of(tmp_path / "run", saved(name), "--generate.generator.sizes", "32x32", "64x32") == 0
    found = list((tmp_path / "run").glob("stages/generate_candidates/*/*/*.parquet"))
    rows = [row for path in found for row in pq.read_table(path).to_pylist()]
    candidates = [candidate for row in rows for candidate in row["candidates"]]
    assert len(candidates) == 6
    assert {candidate["num_steps"] for candidate in candidates} == {2}
    config = flags_config(saved(name))
    assert {row["cost"]["denoiser_passes"] for row in rows} == {3 * config.denoiser_passes_per_image}
    one = candidates[-1]
    size = ImageSize(one["width_px"], one["height_px"])
    alone = DiffusersGenerator(config).generate([one["text"]], [one["seed"]], [size])[0]
    np.testing.assert_array_equal(decode_image(one["image"]), alone)
    assert (tmp_path / "run" / "shards" / "index.json").exists()


def flags_config(folder: Path) -> DiffusersGeneratorConfig:
    length = (200 if folder.name == "Flux2Pipeline" else 64) if PIPELINE_CLASSES[folder.name].text_length else 0
    return DiffusersGeneratorConfig(
        str(folder), steps=2, text_length=length, size_px=32, batch_size=3, dtype="float32", device="cpu"
    )


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "QwenImagePipeline" else pytest.mark.slow) for name in PIPELINES]
)
def test_a_search_by_noise_is_drawn_and_judged(name, saved, tmp_path, capsys):
    words = ["--run", str(tmp_path / "run"), "--preset", "micro", "--search.strategy", "noise", "--num-prompts", "2"]
    words += ["--search.width", "2", "--search.depth", "2", *flags("--tools.generator", saved(name))]
    assert search.main(words) == 0
    assert "2 searches (0 unfinished), noise" in capsys.readouterr().out


def test_what_cannot_be_is_refused_before_a_run_is_made(saved, tmp_path):
    with pytest.raises(InputError, match="no model is named"):
        run.main(["--run", str(tmp_path / "run"), "--preset", "micro", "--generate.generator.kind", "diffusers"])
    assert not (tmp_path / "run").exists()


def test_the_tiny_models_are_there_for_people_too(tmp_path, capsys):
    assert save_tiny(["ZImagePipeline", str(tmp_path / "z")]) == 0
    assert (tmp_path / "z" / "model_index.json").exists()
    assert save_tiny(["ZImagePipeline", str(tmp_path / "z")]) == 2
    assert save_tiny([]) == 2
    assert "ZImagePipeline" in capsys.readouterr().err
    assert set(PIPELINES) <= set(saved_kinds())
