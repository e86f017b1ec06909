"""Weights that hold no numbers are refused where they are read, with file and tensor."""

import itertools
import json
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from inference.flux.generator import FluxGenerator
from inference.rewards.open_clip_loading import read_checkpoint
from inference.sound_weights import check_numbers, sound_weights
from microworld.family import micro_flux
from schemas.digests import write_manifest
from schemas.errors import InputError
from tests.support.tiny_models import save_tiny_flux

BAD = [float("nan"), -float("nan"), float("inf"), -float("inf")]
TYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2]  # all that have an infinity


@pytest.mark.parametrize(("dtype", "value"), [*itertools.product(TYPES, BAD), (torch.float8_e4m3fn, BAD[0])])
def test_a_value_that_is_no_number_is_found_in_every_type_and_place(tmp_path, dtype, value):
    for place in (0, 777, 2**20 + 12_345, -1):
        tensor = torch.linspace(-400, 400, 2**20 + 30_000).to(dtype)
        path = tmp_path / "model.safetensors"
        save_file({"a": torch.arange(3), "b.weight": tensor, "c": tensor[:5].clone()}, path)
        assert sound_weights(path) == path
        tensor[place] = torch.tensor(value).to(dtype)
        save_file({"a": torch.arange(3), "b.weight": tensor}, path)
        with pytest.raises(InputError, match=r"model.safetensors: tensor b.weight holds values that are no numbers"):
            sound_weights(path)


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=8, max_size=64).map(lambda data: data[: len(data) // 8 * 8]))
def test_bits_are_judged_as_numpy_judges_them(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("bits") / "w.safetensors"
    for dtype in (np.float16, np.float32, np.float64):
        values = np.frombuffer(data, dtype)
        save_file({"w": torch.from_numpy(values.copy())}, path)
        with np.errstate(all="ignore"):
            is_sound = bool(np.isfinite(values).all())
        try:
            sound_weights(path)
        except InputError:
            assert not is_sound
        else:
            assert is_sound


def test_what_is_no_number_by_right_is_left_alone(tmp_path):
    save_file({"attn_mask": torch.full((3, 3), -float("inf")), "ids": torch.arange(4)}, tmp_path / "m.safetensors")
    sound_weights(tmp_path)
    check_numbers({"text.attn_mask": torch.full((2,), -float("inf"))}, tmp_path)


def test_of_a_folder_the_files_that_are_read_are_looked_at(tmp_path):
    sound, bad = {"w": torch.ones(3)}, {"w": torch.full((3,), float("nan"))}
    (tmp_path / "checkpoints").mkdir()
    save_file(bad, tmp_path / "checkpoints" / "old.safetensors")
    save_file(bad, tmp_path / "consolidated.safetensors")
    save_file(sound, tmp_path / "model-1.safetensors")
    torch.save(bad, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": "model-1.safetensors"}}))
    sound_weights(tmp_path)
    save_file(bad, tmp_path / "model-1.safetensors")
    with pytest.raises(InputError, match=r"model-1.safetensors: tensor w "):
        sound_weights(tmp_path)
    for path in tmp_path.glob("*.safetensors*"):
        path.unlink()
    with pytest.raises(InputError, match=r"pytorch_model.bin: tensor w "):
        sound_weights(tmp_path)


@pytest.mark.parametrize("cut", [4, 100, -1])
def test_a_file_that_is_cut_short_is_named(tmp_path, cut):
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.ones(300)}, path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match=r"model.safetensors: does not read as safetensors"):
        sound_weights(path)
    path.write_bytes(struct.pack("<Q", 7) + b"[1,2,3]" + bytes(50))
    with pytest.raises(InputError, match="does not read as safetensors"):
        sound_weights(path)


def test_an_export_whose_bytes_changed_is_refused(tmp_path):
    save_file({"w": torch.ones(300)}, tmp_path / "model.safetensors")
    write_manifest(tmp_path)
    sound_weights(tmp_path)
    save_file({"w": torch.full((300,), 1.5)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"model.safetensors has other bytes than were written"):
        sound_weights(tmp_path)


def test_a_generator_without_numbers_does_not_load(tmp_path):
    folder = save_tiny_flux(tmp_path / "flux")
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[3]
    tensors[name].view(-1)[-1] = float("nan")
    save_file(tensors, path)
    with pytest.raises(InputError, match=rf"(?s)transformer/diffusion_pytorch_model.safetensors: tensor {name} "):
        FluxGenerator(micro_flux(str(folder), num_steps=1))


@pytest.mark.parametrize("part", ["transformer/diffusion_pytorch_model", "text_encoder/model", "text_encoder_2/model"])
def test_a_generator_that_lacks_a_tensor_does_not_load(tmp_path, part):
    """Libraries would draw random numbers for it."""
    folder = save_tiny_flux(tmp_path / "flux")
    FluxGenerator(micro_flux(str(folder), num_steps=1))
    path = folder / f"{part}.safetensors"
    tensors = load_file(path)
    name = next(name for name in sorted(tensors) if (name.endswith("weight") and "layer" in name) or "norm" in name)
    del tensors[name]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match=rf"(?s)flux: its files lack tensors of the model: .*{name.split('.')[-2]}"):
        FluxGenerator(micro_flux(str(folder), num_steps=1))


def test_a_pickled_reward_without_numbers_does_not_load(tmp_path):
    torch.save({"state_dict": {"logit_scale": torch.tensor(float("nan"))}}, tmp_path / "HPS_v2.1.pt")
    with pytest.raises(InputError, match=r"HPS_v2.1.pt: tensor logit_scale"):
        read_checkpoint(tmp_path / "HPS_v2.1.pt")


def test_libraries_draw_no_bars_once_weights_are_looked_through(tmp_path):
    from transformers.utils import logging

    logging.enable_progress_bar()
    sound_weights(tmp_path)
    assert not logging.is_progress_bar_enabled()
