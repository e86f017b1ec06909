"""What Ray Serve is told of a vLLM. (That it serves: `tests/end_to_end/test_vllm_run.py`.)"""

import pytest

from inference.vlm.vllm_server import VllmServerConfig, engine_arguments
from pipelines.runtime import vlm_deployment
from pipelines.runtime.vlm_deployment import Serving, replicas_of


def test_arguments_of_a_command_line_are_the_engine_s():
    words = ["--max-model-len", "8192", "--enforce-eager", "--no-enable-prefix-caching", "--dtype=bfloat16"]
    assert engine_arguments([*words, "--limit-mm-per-prompt", '{"image":2}']) == {
        "max_model_len": 8192,
        "enforce_eager": True,
        "enable_prefix_caching": False,
        "dtype": "bfloat16",
        "limit_mm_per_prompt": {"image": 2},
    }


def test_a_model_that_is_divided_takes_as_many_gpus():
    divided = VllmServerConfig("m", arguments=("--tensor-parallel-size", "2", "--pipeline-parallel-size=2"))
    assert divided.gpus_each == 4
    assert VllmServerConfig("m", gpus=0.4).gpus_each == 0.4
    assert VllmServerConfig("m", device="cpu").gpus_each == 0


@pytest.mark.parametrize(
    ("config", "all_gpus", "first", "most"),
    [
        (VllmServerConfig("m"), False, 1, 8),
        (VllmServerConfig("m"), True, 5, 8),
        (VllmServerConfig("m", gpus=0.4), False, 1, 8),  # one a GPU: the rest of it is another model's
        (VllmServerConfig("m", arguments=("--tensor-parallel-size", "4")), True, 1, 2),
        (VllmServerConfig("m", device="cpu"), True, 1, 1),
    ],
)
def test_replicas_grow_to_the_gpus_that_there_are(monkeypatch, config, all_gpus, first, most):
    monkeypatch.setattr(vlm_deployment.ray, "cluster_resources", lambda: {"GPU": 8.0})
    monkeypatch.setattr(vlm_deployment.ray, "available_resources", lambda: {"GPU": 5.0})
    told = replicas_of(config, Serving(all_gpus=all_gpus))["autoscaling_config"]
    assert (told["min_replicas"], told["initial_replicas"], told["max_replicas"]) == (1, first, most)


def test_replicas_that_were_asked_for_are_started(monkeypatch):
    assert replicas_of(VllmServerConfig("m", replicas=3), Serving()) == {"num_replicas": 3}
