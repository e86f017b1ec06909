"""A vLLM server of the micro VLM on the CPU."""

import pytest

from inference.vlm.vllm_server import VllmServer, VllmServerConfig
from microworld.training.vlm_model import VlmShape
from microworld.weights_folder import MICRO_WEIGHTS
from tests.support.tiny_vlm import save_tiny_vlm


def model_folder(tmp_path):
    """The shipped micro VLM, or one of its shape with random weights."""
    shipped = MICRO_WEIGHTS / "vlm"
    if (shipped / "model.safetensors").exists():
        return shipped
    return save_tiny_vlm(tmp_path / "vlm", VlmShape(layers=2, vision_layers=2))


def server_of(folder):
    """Not started yet. Skips the test where there is no vLLM."""
    pytest.importorskip("vllm")
    arguments = ("--max-model-len", "1024", "--enforce-eager")
    return VllmServer(VllmServerConfig(str(folder), "float32", arguments=arguments, device="cpu", start_timeout_s=480))
