"""peft adapters of a VLM: every tensor is used, or the file is refused with the tensor's name."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from inference.vlm.adapters import load_vlm, merged_folder
from schemas.errors import InputError
from tests.support.tiny_vlm import save_tiny_vlm
from trainers.vlm_lora import add_lora, lora_targets, restore_adapter, save_adapter

FILE = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny_vlm(tmp_path_factory.mktemp("vlm"))


def adapted(base):
    torch.manual_seed(0)
    model = load_vlm(base, "float32")[0]
    return get_peft_model(
        model, LoraConfig(r=2, lora_alpha=4, target_modules=lora_targets(model), init_lora_weights=False)
    )


@pytest.fixture
def adapter(base, tmp_path):
    save_adapter(adapted(base), tmp_path / "adapter", str(base))
    return tmp_path / "adapter"


def change(folder, how):
    save_file(how(load_file(folder / FILE)), folder / FILE)


def test_a_whole_adapter_is_in_the_weights(base, adapter):
    before, after = (load_vlm(folder, "float32")[0].state_dict() for folder in (base, adapter))
    tensors = load_file(adapter / FILE)
    down = next(name for name in tensors if name.endswith("q_proj.lora_A.weight"))
    up = tensors[down.replace("lora_A", "lora_B")]
    name = down.removeprefix("base_model.model.").replace("lora_A.", "")
    added = 2 * up.float() @ tensors[down].float()
    assert torch.allclose(after[name] - before[name], added, atol=1e-4)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (lambda t: dict(list(t.items())[1:]), "1 are missing"),
        (lambda t: t | {"base_model.model.nowhere.lora_A.weight": torch.zeros(2, 2)}, r"no place in it: .*nowhere"),
        (lambda t: {n.removeprefix("base_model.model."): v for n, v in t.items()}, "have no place in it"),
        (lambda t: {n.replace("layers.0.", "layers.40."): v for n, v in t.items()}, r"layers\.40"),
        (lambda t: {n: v[:, :1].contiguous() if "lora_A" in n else v for n, v in t.items()}, "does not fit"),
        (lambda t: t | {next(iter(t)): next(iter(t.values())) * float("nan")}, "tensor .* no numbers"),
    ],
)
def test_what_would_be_applied_in_part_is_refused_by_name(base, adapter, how, said):
    change(adapter, how)
    with pytest.raises(InputError, match=rf"(?s)adapter.*{said}|{said}.*adapter"):
        load_vlm(adapter, "float32")
    if "fit" not in said:
        with pytest.raises(InputError, match=said):
            restore_adapter(adapted(base), adapter)


@pytest.mark.parametrize("by_root", [False, True])
def test_what_is_trained_further_begins_as_strong_as_it_was(base, tmp_path, by_root):
    """An adapter of somebody's whose alpha is not its rank; a training's own alpha always is."""
    model = load_vlm(base, "float32")[0]
    targets = lora_targets(model)
    theirs = LoraConfig(r=2, lora_alpha=3, use_rslora=by_root, target_modules=targets, init_lora_weights=False)
    get_peft_model(model, theirs).save_pretrained(tmp_path)
    model = add_lora(load_vlm(base, "float32")[0], 2)
    restore_adapter(model, tmp_path)
    merged, whole = model.merge_and_unload().state_dict(), load_vlm(tmp_path, "float32")[0].state_dict()
    assert merged.keys() == whole.keys()
    assert all(torch.allclose(merged[name], value, atol=1e-5) for name, value in whole.items())


def test_what_is_no_lora_or_of_another_rank_is_not_trained_further(base, adapter):
    with pytest.raises(InputError, match="a LoRA of rank 2"):
        restore_adapter(add_lora(load_vlm(base, "float32")[0], 3), adapter)
    described = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(described | {"peft_type": "IA3"}))
    with pytest.raises(InputError, match="no rank and alpha"):
        restore_adapter(add_lora(load_vlm(base, "float32")[0], 2), adapter)


def test_a_merged_model_is_checked_before_it_is_served(adapter, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    merged = merged_folder(adapter, "0" * 16, "float32")
    assert json.loads((merged / "config.json").read_text())["dtype"] == "float32"
    tensors = load_file(merged / "model.safetensors")
    tensors[next(iter(tensors))].view(-1)[0] += 1
    save_file(tensors, merged / "model.safetensors")
    with pytest.raises(InputError, match=r"model.safetensors has other bytes than were written"):
        merged_folder(adapter, "0" * 16, "float32")
