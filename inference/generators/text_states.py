"""What text encoders make of a text, once: each by itself, so that its states depend on no other."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from inference.generators.call_arguments import call_parameters
from inference.generators.pipeline_classes import PipelineClass

KEPT_BYTES = 256 * 2**20
"""Of encoded texts: a search says the same again from round to round."""

States = dict[str, Any]
"""By the arguments of the class's call: tensors (1, ...), or lists of one tensor for classes that take lists."""


class TextStates:
    """The texts of one pipeline and one set of call arguments."""

    def __init__(self, pipeline: Any, known: PipelineClass, arguments: Mapping[str, Any], is_guided: bool) -> None:
        """arguments: of the call, those at the class's defaults included. is_guided: whether negative states are
        needed."""
        self._pipeline, self._names = pipeline, known.text_states
        self._takes = call_parameters(type(pipeline))
        self._negative: str | None = arguments.get("negative_prompt") if is_guided else None
        self._is_guided = is_guided
        self._arguments = self._encoder_arguments({**self._takes, **arguments})
        self._kept: dict[str, States] = {}

    def of(self, text: str) -> States:
        """The states of a text, and of the negative prompt where there is guidance."""
        if text not in self._kept:
            states = self._encode(text)
            if self._is_guided and not any(name.startswith("negative_") for name in self._names):
                negative = self._encode(self._negative or "")
                named = {f"negative_{name}": value for name, value in negative.items()}
                states |= {name: value for name, value in named.items() if name in self._takes}
            if (len(self._kept) + 1) * _bytes(states) > KEPT_BYTES:
                self._kept.clear()
            self._kept[text] = states
        return self._kept[text]

    def _encode(self, text: str) -> States:
        import torch

        # A list of its own: Z-Image's class writes its template into the one it is given.
        with torch.no_grad():
            returned = self._pipeline.encode_prompt(
                prompt=[text], device=self._pipeline._execution_device, **self._arguments
            )
        returned = returned if isinstance(returned, tuple) else (returned,)
        named = zip(self._names, returned, strict=True)
        return {name: value for name, value in named if name and value is not None and len(value)}

    def _encoder_arguments(self, of_call: Mapping[str, Any]) -> dict[str, Any]:
        """What else `encode_prompt` takes: the call's value of the same name; None for further texts."""
        given: dict[str, Any] = {}
        for name, parameter in inspect.signature(self._pipeline.encode_prompt).parameters.items():
            if name in ("prompt", "device", "num_images_per_prompt") or "embeds" in name or name.endswith("_mask"):
                continue
            if name == "do_classifier_free_guidance":
                given[name] = self._is_guided
            elif name == "negative_prompt":
                given[name] = self._negative if self._negative is not None else of_call.get(name)
            elif name in of_call:
                given[name] = of_call[name]
            elif parameter.default is parameter.empty:
                given[name] = None
        return given


def shapes_of(states: States) -> tuple[Any, ...]:
    """What must be alike in all texts of a batch."""
    return tuple((name, tuple(_tensor(value).shape)) for name, value in sorted(states.items()))


def batched(states: Sequence[States]) -> States:
    """The states of several texts of the same shapes, as one call takes them."""
    import torch

    def joined(name: str) -> Any:
        values = [one[name] for one in states]
        return [value for some in values for value in some] if isinstance(values[0], list) else torch.cat(values)

    return {name: joined(name) for name in states[0]}


def _tensor(value: Any) -> Any:
    return value[0] if isinstance(value, list) else value


def _bytes(states: States) -> int:
    return sum(_tensor(value).nbytes for value in states.values())
