"""The NVILA verifier of SANA-1.5, which chooses in ReflectionFlow's main results: its yes or no about an image, and the
logit of that word's first token.

Images it says yes to come first, the surest first; then those it says no to, the least sure first. Its model is code of
its own folder (written for transformers 4.46), which nothing here runs unless it is told to; or it is asked at an
OpenAI-compatible address that somebody else serves it at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
from PIL import Image

from inference.interfaces import ChatRequest, OneCallAnImage, Verifier, Vlm
from inference.vlm.endpoint import EndpointConfig, EndpointVlm, Journal
from inference.vlm.prompts import fill_prompt, load_prompt
from inference.vlm.vlm import VlmConfig
from schemas.configuration import execution_field, model_field, template_field
from schemas.errors import InputError, WorkFailedError

FLOOR = 1e-6  # of a probability, so that its logarithm stays finite
BARE = "{prompt}"


@dataclass(frozen=True)
class NvilaVerifierConfig:
    """Who says yes or no, and how it is reached."""

    kind: Literal["in-process", "endpoint"] = "in-process"
    """in-process: the model's own code runs here; endpoint: it is asked at `base_url`. Scores differ: logits there,
    log-probabilities here."""
    model: str = model_field("Efficient-Large-Model/NVILA-Lite-2B-Verifier")
    """Local folder or hub id, of a model with `generate_content`; not used at an endpoint."""
    trust_remote_code: bool = execution_field(False)
    """Run the Python code that lies in the model's folder, with all your rights. Read it first."""
    template: str = template_field("")
    """Text with {prompt}: a file, or a name in inference/prompts (yes_no_match asks for yes or no, as SANA does).
    Empty: the bare prompt, as in the published search."""
    endpoint_model: str = ""
    """Name of the model at `base_url`."""
    base_url: str = execution_field("")
    """OpenAI-compatible address that gives log-probabilities, such as http://host:8000/v1."""
    api_key_env: str = execution_field("OPENAI_API_KEY")
    """Environment variable that holds the endpoint's key."""
    vlm: VlmConfig | None = None
    """Whose device and dtype it takes: the run's VLM."""

    def only_what_is_used(self) -> NvilaVerifierConfig:
        """Without the model's folder where an endpoint is asked. InputError for code that nobody allowed to run, and
        for an endpoint without address or name."""
        if self.kind == "endpoint":
            if not self.base_url or not self.endpoint_model:
                raise InputError(
                    "an endpoint without address or name", field="nvila.base_url, nvila.endpoint_model", expected="both"
                )
            return replace(self, model="")
        if not self.trust_remote_code:
            raise InputError(
                f"{self.model!r} is loaded by Python code that lies in its own folder; it would run in this process, "
                "with all your rights, and is not run unless you say so",
                field="nvila.trust_remote_code",
                expected="--trust-remote-code of this verifier, once you have read that code and trust it; or kind "
                "endpoint, for a server that runs it elsewhere",
            )
        return self

    def open(self, journal: Journal | None = None) -> Verifier:
        """Load or reach it. MissingWeightsError, InputError."""
        used = self.only_what_is_used()
        template = load_prompt(used.template) if used.template else BARE
        if used.kind == "endpoint":
            config = EndpointConfig(used.base_url, used.endpoint_model, api_key_env=used.api_key_env)
            return AskedNvilaVerifier(EndpointVlm(config, journal), template)
        vlm = used.vlm or VlmConfig()
        return NvilaVerifier(_load_trusted(used.model, vlm.dtype, vlm.device), template)


def _load_trusted(name: str, dtype: str, device: str) -> Any:
    """A model by its own code. MissingWeightsError; InputError for a model that does not do what is asked of it;
    WorkFailedError for code that does not run here."""
    import torch
    from transformers import AutoModel

    from inference.sound_weights import sound_model

    folder = sound_model(name)
    try:
        model: Any = AutoModel.from_pretrained(
            folder, trust_remote_code=True, local_files_only=True, dtype=getattr(torch, dtype)
        )
    except Exception as error:  # whatever a stranger's code raises
        raise WorkFailedError(
            f"the code of {name!r} does not run under this transformers: {type(error).__name__}: {error}\n"
            "  NVILA's was written for 4.46: serve it where that is installed, and use kind endpoint"
        ) from error
    if not hasattr(model, "generate_content") or not hasattr(model, "tokenizer"):
        raise InputError(f"{name!r} has no generate_content, or no tokenizer", field="nvila.model", expected="an NVILA")
    return model.to(device).eval()


def rank_score(says_yes: bool, score: float) -> float:
    """A number that orders as the verifier does: every yes above 0 and rising with its score, every no below 0 and
    falling with it. score: any finite number. What it is made from grows without bound and never rounds to one
    value, as a logistic curve would; differences mean nothing."""
    size = 1 + score if score >= 0 else 1 / (1 - score)
    return size if says_yes else -size


class NvilaVerifier(OneCallAnImage):
    """A model with `generate_content([image, text]) -> (answer, scores)`, scores[0] (1, vocabulary) of the first new
    token. Its scores order images and are no log-odds: it is not to be averaged with others."""

    def __init__(self, model: Any, template: str) -> None:
        self._model, self._template = model, template
        self._ids = {word: model.tokenizer.encode(word, add_special_tokens=False)[0] for word in ("yes", "no")}

    def score(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """float32 (n,): `rank_score` of the answer and its logit. One image at a time."""
        import torch

        found = np.zeros(len(images), np.float32)
        for row, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
            text = fill_prompt(self._template, prompt=prompt)
            with torch.inference_mode():
                answer, scores = self._model.generate_content([Image.fromarray(image), text])
            says_yes = answer == "yes"
            found[row] = rank_score(says_yes, float(scores[0][0, self._ids["yes" if says_yes else "no"]]))
        return found


class AskedNvilaVerifier(OneCallAnImage):
    """The same by chat: the likelier of yes and no is the answer, its log-probability the score."""

    def __init__(self, vlm: Vlm, template: str) -> None:
        self._vlm, self._template = vlm, template

    def score(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """float32 (n,): `rank_score` of the answer and its log-probability."""
        if not len(images):
            return np.zeros(0, np.float32)
        requests = [
            ChatRequest(fill_prompt(self._template, prompt=prompt), (image,))
            for image, prompt in zip(images, prompts, strict=True)
        ]
        found = self._vlm.first_word_probabilities(requests, ("yes", "no")).clip(FLOOR, 1)
        ranked = [rank_score(yes > no, float(np.log(max(yes, no)))) for yes, no in found]
        return cast(np.ndarray, np.array(ranked, np.float32))
