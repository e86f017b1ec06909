"""VLMs on Ray: Ray Serve's LLM deployment, with vLLM inside it, one a model, for everybody on the cluster who asks.

A deployment lives as long as somebody says that it is needed: each process that has a `ServedVlm` says so every few
seconds, and after `SILENCE_S` without a word the keeper takes it down. So whichever process dies, however it dies, no
vLLM stays on a GPU, and the next run finds what is there. The keeper is an actor that outlives drivers, and ends when
it has nothing to keep.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
import weakref
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError

from inference.vlm.vllm_server import CPU_ENVIRONMENT, VllmServerConfig, answers, engine_arguments
from schemas.errors import WorkFailedError

log = logging.getLogger(__name__)
SILENCE_S = 30.0
"""A deployment that nobody has asked for in so long is taken down."""
IDLE_S = 600.0
"""A keeper that has had nothing to keep for so long ends. Serve itself stays, which needs no GPU."""
REQUESTS_A_REPLICA = 32
"""In flight, at least, before another replica is started; vLLM takes as many together as its cache holds."""
_SAID_EVERY_S = 5.0
_NAMESPACE, _KEEPER, _APP = "reflectionflow", "vlm-keeper", "reflectionflow-vlm-"
_STARTS = 3


@dataclass(frozen=True)
class Serving:
    """How the models of a run are served."""

    host: str = "0.0.0.0"
    """Where Serve's proxies listen: 127.0.0.1 keeps those of a cluster of one machine to itself."""
    all_gpus: bool = False
    """Start with as many replicas as there are free GPUs, instead of with one: for a stage that has them all."""


@dataclass(frozen=True)
class Claim:
    """What the keeper answers. problem: why it will not come up."""

    running: bool
    addresses: tuple[str, ...]
    problem: str = ""


class ServedVlm:
    """See `inference.vlm.vllm_server.Server`: what a process holds while it asks."""

    def __init__(self, serving: Serving, config: VllmServerConfig) -> None:
        self.serving, self.config, self.key = serving, config, config.key
        self._address = ""
        self._keeper: Any = None
        said = threading.Event()
        self._finalizer = weakref.finalize(self, said.set)
        # A thread of its own, that knows nothing of self: it ends when this is let go of, and with the process.
        threading.Thread(target=_say, args=(self.key, said), daemon=True).start()

    def ensure(self) -> str:
        """See `Server`."""
        if self._address and _answers(self._address):
            return self._address
        deadline = time.monotonic() + self.config.start_timeout_s
        while time.monotonic() < deadline:
            claim = self._claim()
            if claim.problem:
                raise WorkFailedError(f"Ray Serve does not serve {self.config.model}: {claim.problem}")
            if claim.running:
                self._address = next((address for address in claim.addresses if _answers(address)), "")
                if self._address:
                    return self._address
            time.sleep(1.0)
        raise WorkFailedError(
            f"Ray Serve does not serve {self.config.model} in {self.config.start_timeout_s:.0f} s; is there room for "
            f"{self.config.gpus:g} GPUs? (`ray status`, `serve status`)"
        )

    def _claim(self) -> Claim:
        try:
            return ray.get(keeper().claim.remote(self.key, self.config, self.serving))
        except RayActorError:  # it ended just now, since it had nothing to keep
            return Claim(running=False, addresses=())


class VlmKeeper:
    """Starts deployments when they are asked for, and takes down what nobody needs any more. Loses nothing when it
    dies: what is deployed, Serve knows, and who needs it says so again."""

    def __init__(self) -> None:
        from ray import serve

        self._lock = threading.Lock()
        self._port = 0
        self._heard: dict[str, float] = {}
        with contextlib.suppress(Exception):  # Serve has never been started here
            self._heard = {
                name.removeprefix(_APP): time.monotonic()
                for name in serve.status().applications
                if name.startswith(_APP)
            }
        self._last_kept = time.monotonic()
        threading.Thread(target=self._sweep, daemon=True).start()

    def claim(self, key: str, config: VllmServerConfig, serving: Serving) -> Claim:
        """Say that a model is needed; it is deployed unless it is."""
        from ray import serve

        with self._lock:
            self._heard[key] = time.monotonic()
            self._start_serve(serving.host)
            app = serve.status().applications.get(_APP + key)
            if app is None:
                self._deploy(key, config, serving)
                return Claim(running=False, addresses=())
        problem = ""
        if app.status == "DEPLOY_FAILED":
            problem = "; ".join([app.message, *(one.message for one in app.deployments.values())])[-2000:]
            with self._lock:
                serve.delete(_APP + key)  # whoever asks again has it tried again
        hosts = ("127.0.0.1", _head_address())
        addresses = tuple(f"http://{host}:{self._port}/{key}/v1" for host in hosts)
        return Claim(app.status in ("RUNNING", "UNHEALTHY"), addresses, problem)

    def need(self, key: str) -> None:
        """Say that it is still needed."""
        self._heard[key] = time.monotonic()

    def _start_serve(self, host: str) -> None:
        if self._port:
            return
        from ray import serve
        from ray.serve.context import _get_global_client

        with socket.socket() as probe:
            probe.bind(("", 0))
            port: int = probe.getsockname()[1]
        serve.start(proxy_location="EveryNode", http_options={"host": host, "port": port})
        client: Any = _get_global_client()
        self._port = client.http_config.port

    def _deploy(self, key: str, config: VllmServerConfig, serving: Serving) -> None:
        from ray import serve
        from ray.serve.llm import build_openai_app

        quiet = {"log_level": "WARNING", "enable_access_log": False}
        one = {"min_replicas": 1, "max_replicas": 1}
        app = build_openai_app(
            {
                "llm_configs": [settings_of(config, config.model, replicas_of(config, serving))],
                "ingress_deployment_config": {
                    "ray_actor_options": {"num_cpus": 0.1},
                    "autoscaling_config": one,
                    "logging_config": quiet,
                },
            }
        )
        target = serve.RunTarget(app, _APP + key, f"/{key}")
        serve.run_many([target], wait_for_applications_running=False)

    def _sweep(self) -> None:
        from ray import serve

        while True:
            time.sleep(1.0)
            with self._lock:
                now = time.monotonic()
                for key in [key for key, heard in self._heard.items() if now - heard > SILENCE_S]:
                    del self._heard[key]
                    with contextlib.suppress(Exception):  # tried again at the next start of a keeper
                        serve.delete(_APP + key)
                if self._heard:
                    self._last_kept = now
                elif now - self._last_kept > IDLE_S:
                    ray.kill(ray.get_runtime_context().current_actor)


def keeper() -> Any:
    """The cluster's keeper; started by whoever asks first."""
    plain: Any = ray.remote(VlmKeeper)
    return plain.options(
        name=_KEEPER,
        namespace=_NAMESPACE,
        get_if_exists=True,
        lifetime="detached",
        num_cpus=0,
        max_concurrency=16,
        max_restarts=-1,
        max_task_retries=-1,
    ).remote()


def settings_of(config: VllmServerConfig, source: str, replicas: dict[str, Any]) -> Any:
    """Ray Serve's configuration. source: the folder that vLLM loads, of the node where it does."""
    from ray.serve.llm import LLMConfig

    said: dict[str, Any] = ray.get_runtime_context().runtime_env.get("env_vars") or {}
    environment = said | {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    on_cpu = config.device == "cpu"
    if on_cpu:
        environment = CPU_ENVIRONMENT | environment
    arguments, kind = engine_arguments(config.all_arguments()), {"kind": "cpu" if on_cpu else "gpu"}
    del arguments["served_model_name"]
    return LLMConfig(
        model_loading_config={"model_id": config.model, "model_source": source},
        engine_kwargs=arguments,
        accelerator_config=kind,  # pyright: ignore[reportArgumentType] - pydantic reads it
        placement_group_config={"bundle_per_worker": {"CPU": 1} if on_cpu else {"CPU": 1, "GPU": config.gpus}},
        runtime_env={"env_vars": environment},
        server_cls=_server_class(config),
        log_engine_metrics=False,
        deployment_config={
            "ray_actor_options": {"num_cpus": 0},
            "max_ongoing_requests": 8 * REQUESTS_A_REPLICA,
            "health_check_period_s": 2.0,
            "health_check_timeout_s": 60.0,
            "graceful_shutdown_timeout_s": 5.0,
            "max_constructor_retry_count": _STARTS,
            "logging_config": {"log_level": "WARNING", "enable_access_log": False},
            **replicas,
        },
    )


def _server_class(config: VllmServerConfig) -> Any:
    from ray.serve.llm import LLMServer

    class VlmServer(LLMServer):
        """Looks for the model where it works: nodes need not have it at the same place, and an adapter is merged."""

        async def __init__(self, llm_config: Any) -> None:
            del llm_config  # it names the model, not where it lies here
            await super().__init__(settings_of(config, str(config.folder()), {}))

        async def check_health(self) -> None:
            """A replica whose engine died answers every question at once, with an error, and so draws them all to
            itself: it does not wait for Serve to count its failures."""
            try:
                await super().check_health()
            except Exception:
                os._exit(1)

    return VlmServer


def replicas_of(config: VllmServerConfig, serving: Serving) -> dict[str, Any]:
    """Of a deployment: how many at first, and at most."""
    if config.replicas:
        return {"num_replicas": config.replicas}
    each = max(1.0, config.gpus_each)  # one a GPU at most: the rest of it is another model's
    on_gpu = config.device != "cpu"
    most = max(1, int(ray.cluster_resources().get("GPU", 0) / each)) if on_gpu else 1
    free = max(1, int(ray.available_resources().get("GPU", 0) / each)) if on_gpu and serving.all_gpus else 1
    return {
        "autoscaling_config": {
            "min_replicas": 1,
            "initial_replicas": min(free, most),
            "max_replicas": most,
            "target_ongoing_requests": REQUESTS_A_REPLICA,
            "upscale_delay_s": 10.0,
        }
    }


def _head_address() -> str:
    """Serve has a proxy there, and on every node with a replica."""
    heads = [node for node in ray.nodes() if node["Alive"] and "node:__internal_head__" in node["Resources"]]
    return heads[0]["NodeManagerAddress"] if heads else "127.0.0.1"


def _answers(address: str) -> bool:
    return answers(f"{address}/models", 10)


def _say(key: str, let_go: threading.Event) -> None:
    while not let_go.wait(_SAID_EVERY_S):
        if not ray.is_initialized():  # this process has left the cluster; to ask would start one of its own
            return
        with contextlib.suppress(Exception):  # the cluster is ending, or the keeper is; `ensure` has another started
            ray.get_actor(_KEEPER, _NAMESPACE).need.remote(key)
