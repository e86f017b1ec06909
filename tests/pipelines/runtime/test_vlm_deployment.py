"""What Ray Serve is told of a vLLM, and how long it is kept. (That it serves: `tests/end_to_end/test_vllm_run.py`.)"""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from inference.vlm.vllm_server import VllmServerConfig, engine_arguments
from pipelines.runtime import vlm_deployment
from pipelines.runtime.vlm_deployment import ServedVlm, Serving, VlmKeeper, keeper, replicas_of
from tests.support.processes import wait_until

ROOT = Path(__file__).parents[3]


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


QUICK_SILENCE_S = 15.0


class Listing:
    """An app that lists models: what a deployment does before it is asked anything."""

    async def __call__(self, request):
        return {"data": [], "path": request.url.path}


class QuickKeeper(VlmKeeper):
    """Deploys at once, and waits for fifteen seconds instead of thirty: who says that it is needed says so every
    second, and may well get no time for some of them."""

    def __init__(self):
        vlm_deployment.SILENCE_S = QUICK_SILENCE_S
        super().__init__()

    def _deploy(self, key, config, serving):
        from ray import serve

        app = serve.deployment(ray_actor_options={"num_cpus": 0})(Listing).bind()
        serve.run_many([serve.RunTarget(app, f"reflectionflow-vlm-{key}", f"/{key}")])


USER = """
import sys, time, ray
from tests.pipelines.runtime.test_vlm_deployment import ServedVlm, Serving, VllmServerConfig, quick
quick()
ray.init(address=sys.argv[1], log_to_driver=False)
served = ServedVlm(Serving("127.0.0.1"), VllmServerConfig(sys.argv[2], device="cpu"))
print(served.ensure(), flush=True)
time.sleep(600)
"""


def quick():
    """From now on in this process: QuickKeeper is who is started."""
    vlm_deployment.VlmKeeper = QuickKeeper
    vlm_deployment._SAID_EVERY_S = 1.0


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_deployment_lives_as_long_as_a_process_needs_it_however_that_ends(tmp_path, monkeypatch):
    import ray

    from pipelines.runtime.ray import connect

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(vlm_deployment, "VlmKeeper", QuickKeeper)
    monkeypatch.setattr(vlm_deployment, "_SAID_EVERY_S", 1.0)
    (tmp_path / "config.json").write_text("{}")
    config = VllmServerConfig(str(tmp_path), device="cpu", start_timeout_s=300)
    connect()
    try:
        from ray import serve

        def apps():
            return list(serve.status().applications)

        here = ServedVlm(Serving("127.0.0.1"), config)
        address = here.ensure()
        cluster = ray.get_runtime_context().gcs_address
        command = [sys.executable, "-c", USER, cluster, str(tmp_path)]
        other = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert other.stdout.readline().strip() == address.strip()
        assert len(apps()) == 1

        ray.kill(keeper(), no_restart=False)  # the next one knows nothing, and takes nothing away that is needed
        time.sleep(QUICK_SILENCE_S + 4)
        assert here.ensure() == address
        assert len(apps()) == 1

        del here
        time.sleep(QUICK_SILENCE_S + 4)
        assert len(apps()) == 1  # the other process needs it
        other.kill()
        other.wait()
        wait_until(lambda: not apps(), 240)
        again = ServedVlm(Serving("127.0.0.1"), config)
        assert again.ensure() == address
    finally:
        ray.shutdown()
    time.sleep(3)  # `again` still says that it is needed, every second
    assert not ray.is_initialized()  # and starts no cluster of its own to say it to
