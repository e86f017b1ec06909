"""Which VLM answers, and how it is reached: in this process, by a vLLM that the stage starts, or at an address."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from inference.interfaces import ChatAnswer, ChatRequest, Vlm
from inference.vlm.adapters import merged_folder
from inference.vlm.endpoint import EndpointConfig, EndpointVlm, Journal
from inference.vlm.qwen import QwenVlm, QwenVlmConfig
from inference.vlm.vllm_server import VllmServer, VllmServerConfig
from schemas.configuration import execution_field, model_field
from schemas.errors import InputError


@dataclass(frozen=True)
class VlmConfig:
    """A VLM. What it is called and how it samples belong to a run's identity; how it is reached does not."""

    model: str = model_field("micro/vlm")
    """Model zoo name, local folder (of an adapter, too) or hub id of a Qwen2.5-VL; empty for a model at an address."""
    endpoint_model: str = ""
    """Name of the model at `base_url`."""
    base_url: str = execution_field("")
    """OpenAI-compatible address, such as http://host:8000/v1."""
    api_key_env: str = execution_field("OPENAI_API_KEY")
    """Environment variable that holds the endpoint's key."""
    serve: Literal["in-process", "vllm"] = execution_field("in-process")
    """How a local `model` is run: by transformers in the stage's process, or by a vLLM that the stage starts."""
    max_new_tokens: int = 256
    """An answer that is longer is cut off, and does not count."""
    constrain_json: bool = False
    """Hold answers to their JSON Schema while they are written (vLLM and most endpoints can; not in process)."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch_size: int = execution_field(64)
    """Requests a forward pass, in process."""
    concurrency: int = execution_field(16)
    """Requests in flight, to vLLM or an endpoint."""
    timeout_s: float = execution_field(120.0)
    """Of one request."""
    vllm_arguments: tuple[str, ...] = execution_field(("--max-model-len", "1024", "--enforce-eager"))
    """More arguments of vLLM's API server."""
    device: str = execution_field("cpu")

    def __post_init__(self) -> None:
        if bool(self.model) == bool(self.endpoint_model):
            raise InputError(
                f"model {self.model!r} and endpoint_model {self.endpoint_model!r}",
                field="vlm.model, vlm.endpoint_model",
                expected="one of them: a local model, or the name of one at base_url (with an empty model)",
            )
        if bool(self.endpoint_model) != bool(self.base_url):
            raise InputError(
                f"endpoint_model {self.endpoint_model!r} at base_url {self.base_url!r}",
                field="vlm.endpoint_model, vlm.base_url",
                expected="both or none",
            )

    @property
    def name(self) -> str:
        """What annotations say wrote them."""
        return self.endpoint_model or self.model


def open_vlm(config: VlmConfig, journal: Journal | None = None) -> Vlm:
    """Loads or starts what the configuration names. journal: for answers of endpoints and of vLLM."""
    if config.endpoint_model:
        return EndpointVlm(_endpoint(config, config.base_url, config.endpoint_model), journal)
    if config.serve == "vllm":
        return VllmVlm(config, journal)
    return QwenVlm(QwenVlmConfig(config.model, config.dtype, config.max_new_tokens, config.batch_size, config.device))


class VllmVlm:
    """A local model behind a vLLM of our own. See `inference.interfaces.Vlm`."""

    def __init__(self, config: VlmConfig, journal: Journal | None = None) -> None:
        """Starts vLLM and waits for it. MissingWeightsError; WorkFailedError when it does not start."""
        from inference.model_store import model_digest, resolve_model

        folder = str(merged_folder(resolve_model(config.model), model_digest(config.model), config.dtype))
        self._server = VllmServer.shared(
            VllmServerConfig(folder, config.model, config.dtype, arguments=config.vllm_arguments, device=config.device)
        )
        self._server.ensure()
        self._endpoint = EndpointVlm(_endpoint(config, self._server.base_url, config.model), journal)

    def answer(self, requests: Sequence[ChatRequest]) -> list[ChatAnswer]:
        """Answers in the order of the requests; a vLLM that died is started again first."""
        self._server.ensure()
        return self._endpoint.answer(requests)

    def first_word_probabilities(self, requests: Sequence[ChatRequest], words: Sequence[str]) -> np.ndarray:
        """float32 (n, words): the probability that each answer starts with each word."""
        self._server.ensure()
        return self._endpoint.first_word_probabilities(requests, words)


def _endpoint(config: VlmConfig, base_url: str, model: str) -> EndpointConfig:
    return EndpointConfig(
        base_url=base_url,
        model=model,
        max_new_tokens=config.max_new_tokens,
        constrain_json=config.constrain_json,
        api_key_env=config.api_key_env,
        concurrency=config.concurrency,
        timeout_s=config.timeout_s,
    )
