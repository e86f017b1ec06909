"""Which VLM answers, and how it is reached: in this process, by a vLLM that everybody shares, or at an address."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from inference.interfaces import Vlm
from inference.model_store import base_model_of, resolve_model
from inference.vlm.adapters import check_vlm
from inference.vlm.endpoint import EndpointConfig, EndpointVlm, Journal
from inference.vlm.extras import address, read_extra_body, refuse_secrets, split_headers, variable
from inference.vlm.first_words import ANSWER_FLOOR
from inference.vlm.in_process import InProcessVlm, InProcessVlmConfig
from inference.vlm.pictures import ImageFormat
from inference.vlm.sampling import Sampling
from inference.vlm.vllm_server import VllmServerConfig, open_server
from schemas.configuration import execution_field, model_field
from schemas.errors import InputError

VLLM_TO_COME = "http://127.0.0.1/v1"
"""Until a vLLM of our own has an address."""
_SHARED_MAX_IMAGES = 4  # of a request: who asks with one image and who asks with two share a vLLM


@dataclass(frozen=True)
class VlmConfig:
    """A VLM. What it is called and how it samples belong to a run's identity; how it is reached does not: that is why
    `kind` has no configurations of its own here, as other seams have them."""

    kind: Literal["in-process", "vllm", "endpoint"] = execution_field("vllm")
    """How it is reached: run by transformers in this process, by a vLLM that is started for it and shared by all who
    ask (on Ray, by Ray Serve), or at `base_url` (which a named `endpoint_model` is, whatever the kind)."""
    model: str = model_field("Qwen/Qwen2.5-VL-7B-Instruct")
    """Local folder (of an adapter, too) or hub id of a VLM that transformers opens, or a shipped model's name; empty
    for a model at an address."""
    endpoint_model: str = ""
    """Name of the model at `base_url`."""
    base_url: str = execution_field("")
    """OpenAI-compatible address, such as http://host:8000/v1."""
    api_key_env: str = execution_field("OPENAI_API_KEY")
    """Environment variable that holds the endpoint's key."""
    max_new_tokens: int = 768
    """An answer that is longer is cut off, and does not count."""
    temperature: float = 0.0
    """0: the likeliest answer each time, and only one that is asked for again is sampled."""
    top_p: float = 1.0
    """Sampled answers take of the likeliest tokens that together have this probability; 1: of all."""
    top_k: int = 0
    """Sampled answers take of so many likeliest tokens; 0: of all. Some endpoints have no such limit."""
    seed: int = 0
    """Of sampled answers: another seed, other answers. The same one gives the same in process, and what a journal holds
    anywhere; vLLM and endpoints that take a seed give nearly the same."""
    max_image_pixels: int = 0
    """Larger images are shrunk to so many pixels, at their aspect, before they are shown; 0: none is."""
    image_format: ImageFormat = "png"
    """How images are sent to vLLM and endpoints: png is exact; jpeg and webp are small, where bytes
    are billed."""
    extra_body: str = ""
    """A JSON object that goes into every request to vLLM and endpoints: '{"chat_template_kwargs": {"enable_thinking":
    false}}' for a model at an endpoint that would think aloud first; a vLLM that is started here is told so anyway."""
    constrain_json: bool = True
    """Hold answers to their JSON Schema while they are written (vLLM and most endpoints can; not in process)."""
    answer_floor: float = execution_field(ANSWER_FLOOR)
    """Where Yes or No is asked for and they are less probable than this together, the image is not scored, and its row
    put aside: the model answers something else. 0: it is scored whatever they are."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Of weights and sums, where it is loaded here."""
    batch_size: int = execution_field(64)
    """Requests a forward pass, in process."""
    concurrency: int = execution_field(64)
    """Requests in flight, to vLLM or an endpoint."""
    timeout_s: float = execution_field(120.0)
    """Of one request."""
    retries: int = execution_field(4)
    """More tries of a request that timed out or was turned down for now (429, 5xx)."""
    headers: tuple[str, ...] = execution_field(())
    """More headers for the endpoint, as NAME=VARIABLE: the environment variable holds the value, so that no secret is
    written down."""
    max_images: int = execution_field(2)
    """Images that one request may hold, as vLLM is told when it is started; what asks with more says so."""
    vllm_arguments: tuple[str, ...] = execution_field(("--max-model-len", "8192"))
    """More arguments of vLLM's API server."""
    gpus: float = execution_field(1.0)
    """GPUs of one vLLM on Ray; a fraction shares one with other models."""
    gpu_memory: float = execution_field(0.9)
    """Share of its GPU's memory that a vLLM takes; `plan` says how much is left beside others."""
    replicas: int = execution_field(0)
    """vLLMs of this model on Ray; 0: one, and more while there is work for them and GPUs are free."""
    device: str = execution_field("cuda")
    """Where it is loaded: cpu, cuda."""

    def __post_init__(self) -> None:
        _ = self.sampling
        if not 0 <= self.answer_floor <= 1:
            raise InputError(f"{self.answer_floor}", field="vlm.answer_floor", expected="a probability, 0 to 1")
        if self.max_image_pixels < 0:
            raise InputError(f"{self.max_image_pixels} pixels", field="vlm.max_image_pixels", expected="0 or more")
        address(self.base_url)
        variable(self.api_key_env)
        read_extra_body(self.extra_body)
        split_headers(self.headers)
        arguments = [one.partition("=")[0] for one in self.vllm_arguments if one.startswith("--")]
        refuse_secrets(arguments, "vlm.vllm_arguments", "its environment variable, such as VLLM_API_KEY or HF_TOKEN")
        if bool(self.model) == bool(self.endpoint_model):
            raise InputError(
                f"model {self.model!r} and endpoint_model {self.endpoint_model!r}",
                field="vlm.model, vlm.endpoint_model",
                expected="one of them: a local model, or the name of one at base_url (with an empty model)",
            )
        if self.kind == "endpoint" and not self.endpoint_model:
            raise InputError("kind 'endpoint' without a name", field="vlm.endpoint_model", expected="the model's name")
        if bool(self.endpoint_model) != bool(self.base_url):
            raise InputError(
                f"endpoint_model {self.endpoint_model!r} at base_url {self.base_url!r}",
                field="vlm.endpoint_model, vlm.base_url",
                expected="both or none",
            )

    @property
    def sampling(self) -> Sampling:
        """How answers are drawn. InputError for values that make no sense."""
        return Sampling(self.temperature, self.top_p, self.top_k, self.seed)

    @property
    def name(self) -> str:
        """What annotations say wrote them."""
        return self.endpoint_model or self.model

    @property
    def is_elsewhere(self) -> bool:
        """Whether another process answers."""
        return bool(self.endpoint_model) or self.kind != "in-process"

    @property
    def server(self) -> VllmServerConfig:
        """The vLLM of kind `vllm`."""
        return VllmServerConfig(
            self.model,
            self.dtype,
            max_images=max(_SHARED_MAX_IMAGES, self.max_images),
            arguments=self.vllm_arguments,
            device=self.device,
            gpus=self.gpus,
            gpu_memory=self.gpu_memory,
            replicas=self.replicas,
        )

    def of_model(self, model: str) -> VlmConfig:
        """Other weights, reached in the same way (an endpoint has its own alone: then in this process)."""
        return replace(self, model=model, endpoint_model="", base_url="", kind=self._kind_of_weights)

    @property
    def _kind_of_weights(self) -> Literal["in-process", "vllm"]:
        return "vllm" if self.kind == "vllm" else "in-process"

    @property
    def without_floor(self) -> VlmConfig:
        """The same for questions whose answer may be anything: an improbable one tells something."""
        return replace(self, answer_floor=0.0)

    def only_what_is_used(self) -> VlmConfig:
        """All of it is."""
        return self

    def check(self) -> None:
        """InputError (file) for a model on this machine that is no VLM; cheap, so that it is said before any work.
        MissingWeightsError."""
        if not self.endpoint_model:
            folder = resolve_model(self.model)
            base = base_model_of(folder)
            check_vlm(folder if base is None else resolve_model(base))

    def open(self, journal: Journal | None = None) -> Vlm:
        """Load or reach it. journal: for answers of endpoints and of vLLM. MissingWeightsError, InputError; AccessError
        for a wrong key.

        A vLLM of our own is started by the first question that the journal does not answer, and again where it died;
        WorkFailedError of that question where it does not start."""
        if self.endpoint_model:
            endpoint = EndpointVlm(_endpoint(self, self.base_url, self.endpoint_model), journal)
            endpoint.check()
            return endpoint
        if self.kind == "vllm":
            self.check()
            server = open_server(self.server)
            return EndpointVlm(_endpoint(self, VLLM_TO_COME, self.model), journal, server.ensure)
        return InProcessVlm(
            InProcessVlmConfig(
                self.model,
                self.dtype,
                self.max_new_tokens,
                self.batch_size,
                self.device,
                self.sampling,
                self.max_image_pixels,
                self.answer_floor,
            )
        )


def _endpoint(config: VlmConfig, base_url: str, model: str) -> EndpointConfig:
    return EndpointConfig(
        base_url=base_url,
        model=model,
        max_new_tokens=config.max_new_tokens,
        constrain_json=config.constrain_json,
        api_key_env=config.api_key_env,
        concurrency=config.concurrency,
        timeout_s=config.timeout_s,
        max_retries=config.retries,
        headers=config.headers,
        extra_body=config.extra_body,
        sampling=config.sampling,
        is_vllm=not config.endpoint_model,
        max_image_pixels=config.max_image_pixels,
        image_format=config.image_format,
        answer_floor=config.answer_floor,
    )
