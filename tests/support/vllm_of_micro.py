"""A vLLM server of the micro VLM on the CPU, and processes of vLLM, however they were started."""

import pytest

from inference.vlm.vllm_server import VllmServer, VllmServerConfig
from microworld.training.vlm_model import VlmShape
from microworld.weights_folder import MICRO_WEIGHTS
from tests.support.processes import lines_above, processes_with
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


def vllm_processes(keeper):
    """pid -> command line of every process of a vLLM, but for those below another keeper than this one, `vllm_guard` or
    `raylet`: another test's, which runs beside. Whoever was left by its keeper is below none, and counts."""
    (other,) = {"vllm_guard", "raylet"} - {keeper}
    found = processes_with("vllm.entrypoints") | processes_with("EngineCore") | processes_with("VLLM::")
    return {
        pid: line
        for pid, line in found.items()
        if "vllm_guard" not in line and not any(other in above for above in lines_above(pid))
    }
