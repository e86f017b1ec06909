"""How a server of OpenAI's image routes is reached, and what it is told besides prompt and size."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, ClassVar

from inference.vlm.extras import address, read_extra_body, split_headers, variable
from schemas.configuration import execution_field
from schemas.errors import InputError

_OURS = frozenset(
    {"model", "prompt", "n", "size", "response_format", "stream", "partial_images", "image", "seed"}
    | {"num_inference_steps", "guidance_scale", "true_cfg_scale", "negative_prompt"}
)  # an answer could not be read, or there is a flag for it


@dataclass(frozen=True)
class ImagesApiConfig:
    """What drawing and editing share. The model's name and its settings are who a server is; how it is reached is no
    part of a run's identity. InputError for what cannot be; an address that is missing is said by `require_server`."""

    owner: ClassVar[str] = "images-api"
    """Whose flags errors name."""

    base_url: str = execution_field("")
    """The server's address, such as http://host:8000/v1; https://api.openai.com/v1."""
    model: str = ""
    """The model's name there."""
    api_key_env: str = execution_field("OPENAI_API_KEY")
    """Environment variable that holds the server's key; servers without keys take any."""
    headers: tuple[str, ...] = execution_field(())
    """More headers, as NAME=VARIABLE: the environment variable holds the value."""
    extra_body: str = ""
    """More of each request, a JSON object: '{"quality": "high"}'."""
    num_steps: int = 0
    """Denoising steps, for servers that take `num_inference_steps`; 0: not sent, the server has its own."""
    guidance: float | None = None
    """`guidance_scale`, for servers that take it; none: not sent."""
    true_cfg_scale: float | None = None
    """`true_cfg_scale`, for servers that take it; none: not sent. A negative prompt is sent along."""
    negative_prompt: str = ""
    """`negative_prompt`, for servers that take it; empty: not sent."""
    concurrency: int = execution_field(8)
    """Requests in flight."""
    timeout_s: float = execution_field(600.0)
    """Of one request, from its start to its image's last byte."""
    retries: int = execution_field(4)
    """More tries of a request that timed out or was turned down for now (429, 5xx)."""

    def __post_init__(self) -> None:
        address(self.base_url, self.owner)
        variable(self.api_key_env, self.owner)
        read_extra_body(self.extra_body, self.owner, _OURS)
        split_headers(self.headers, self.owner)
        for name, least in (("num_steps", 0), ("concurrency", 1), ("timeout_s", 1), ("retries", 0)):
            if not getattr(self, name) >= least:
                self._refuse(name, f"at least {least}")
        for name in ("guidance", "true_cfg_scale"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                self._refuse(name, "0 or more, or none")

    def _refuse(self, name: str, expected: str) -> None:
        raise InputError(f"{name} {getattr(self, name)}", field=f"{self.owner}.{name}", expected=expected)

    def passes_of(self, num_steps: int) -> int:
        """Denoiser passes of one image of so many steps; 0 where nobody knows the steps."""
        return num_steps * (2 if (self.true_cfg_scale or 0) > 1 else 1)

    @property
    def settings(self) -> dict[str, Any]:
        """What is sent besides model, prompt, size and seed. Qwen-Image does without true guidance where there is no
        negative prompt, so there is one."""
        negative = self.negative_prompt or (" " if self.true_cfg_scale is not None else None)
        said = {
            "num_inference_steps": self.num_steps or None,
            "guidance_scale": self.guidance,
            "true_cfg_scale": self.true_cfg_scale,
            "negative_prompt": negative,
        }
        known = {name: value for name, value in said.items() if value is not None}
        return known | read_extra_body(self.extra_body, self.owner, _OURS)

    def require_server(self, flags: str) -> None:
        """InputError, which names the flag, where nobody said which server and model. flags: what their flags begin
        with."""
        flags = flags.replace("_", "-")
        if is_unnamed(self.base_url):
            raise InputError(
                "no address of a server that draws is named",
                field=f"{flags}.base-url",
                expected="the address that it is reached at, such as http://host:8000/v1",
            )
        if not re.match("https?://", self.base_url.strip(), re.IGNORECASE):
            raise InputError(
                f"{self.base_url!r} is no address",
                field=f"{flags}.base-url",
                expected="http://host:8000/v1 or https://...",
            )
        if not self.model.strip():
            raise InputError(
                f"no model of {self.base_url} is named", field=f"{flags}.model", expected="its name at the server"
            )


def is_unnamed(base_url: str) -> bool:
    """Whether an address is none yet: empty, or a preset's placeholder (no host's name ends in .invalid)."""
    return not base_url.strip() or re.search(r"\.invalid(?=[:/]|$)", base_url, re.IGNORECASE) is not None
