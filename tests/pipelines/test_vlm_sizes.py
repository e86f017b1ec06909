"""What a vLLM takes comes from its model's files where they are here."""

import json

import pytest

from inference.vlm.vlm import VlmConfig
from pipelines.model_costs import vllm_gib
from pipelines.stated_figures import CUDA_CONTEXT_GIB, GIB, QWEN_7B, VLM_CACHE_GIB
from pipelines.vlm_sizes import vlm_weights_gib
from tests.support.tiny_models.vlms import save_tiny_qwen3_vl


def test_weights_are_counted_in_the_files_of_a_model_and_of_an_adapters_base(tmp_path):
    from transformers import AutoModelForImageTextToText

    folder, adapter = save_tiny_qwen3_vl(tmp_path / "vlm"), tmp_path / "adapter"
    (folder / "consolidated.safetensors").write_bytes((folder / "model.safetensors").read_bytes())  # another program's
    count = sum(p.numel() for p in AutoModelForImageTextToText.from_pretrained(folder).parameters())
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(folder)}))
    for name in (folder, adapter):
        assert vlm_weights_gib(str(name), "bfloat16") == (2 * count / GIB, "0.2M, bfloat16, its files")
    assert vlm_weights_gib(str(folder), "float32")[0] == 4 * count / GIB
    said = json.loads((folder / "config.json").read_text()) | {"quantization_config": {"quant_method": "awq"}}
    (folder / "config.json").write_text(json.dumps(said))
    gib, source = vlm_weights_gib(str(folder), "float32")
    assert gib == (folder / "model.safetensors").stat().st_size / GIB
    assert "quantised" in source


@pytest.mark.parametrize("text", [b"", b"\xff" * 64, b"\x02" + b"\0" * 7 + b"[]"])
def test_files_that_do_not_read_are_no_reason_to_plan_nothing(tmp_path, text):
    (tmp_path / "model.safetensors").write_bytes(text)
    assert vlm_weights_gib(str(tmp_path), "bfloat16")[0] == 2 * QWEN_7B / GIB


def test_known_models_are_stated_and_others_an_allowance():
    gib, how = vllm_gib(VlmConfig(model="Qwen/Qwen3-VL-32B-Instruct"))
    assert gib == pytest.approx(2 * 33.357e9 / GIB + VLM_CACHE_GIB + CUDA_CONTEXT_GIB, rel=1e-3)
    assert "33.4B, bfloat16, stated" in how
    for vlm in (None, VlmConfig(model="somebody/some-vlm")):
        gib, how = vllm_gib(vlm)
        assert gib == 2 * QWEN_7B / GIB + VLM_CACHE_GIB + CUDA_CONTEXT_GIB
        assert "allowance: its size is not known" in how
