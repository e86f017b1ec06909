"""The arguments of a pipeline's call, by its class's own signature: what a class lacks is refused by name."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any, Protocol

from inference.generators.pipeline_classes import PIPELINE_CLASSES
from schemas.errors import InputError

NO_NEGATIVE = " "
"""What stands for a negative prompt with true guidance where none is given: without one it is switched off silently."""
ARGUMENTS = {
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "true_cfg_scale": "true_cfg_scale",
    "negative_prompt": "negative_prompt",
    "text_length": "max_sequence_length",
}
"""Our fields by what diffusers calls them."""
_OURS = (
    "prompt",
    "height",
    "width",
    "generator",
    "image",
    "latents",
    "output_type",
    "return_dict",
    "num_images_per_prompt",
    "callback_on_step_end",
    "callback_on_step_end_tensor_inputs",
)
"""Arguments that are worked out, and that `more` must leave alone."""


class SaysHow(Protocol):
    """What a configuration says of drawing: for generators and editors alike."""

    @property
    def steps(self) -> int:
        """Denoising steps; 0 for the class's own."""
        ...

    @property
    def guidance(self) -> float | None:
        """`guidance_scale`; None for the class's own."""
        ...

    @property
    def true_cfg_scale(self) -> float | None:
        """True classifier-free guidance; None for the class's own."""
        ...

    @property
    def negative_prompt(self) -> str:
        """What guidance leads away from; empty for none."""
        ...

    @property
    def text_length(self) -> int:
        """`max_sequence_length`; 0 for the class's own."""
        ...

    @property
    def more(self) -> str:
        """Further arguments, as a JSON object; empty for none."""
        ...


def call_parameters(pipeline_class: type) -> dict[str, Any]:
    """The arguments that a class's call takes, with their defaults."""
    call: Any = pipeline_class.__call__
    return {
        name: parameter.default
        for name, parameter in inspect.signature(call).parameters.items()
        if name != "self" and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }


def call_arguments(pipeline: Any, config: SaysHow) -> dict[str, Any]:
    """What a call of the pipeline gets beside texts, images, sizes and noise; only what the class takes.

    InputError, which names the field and what the class takes: for a setting that the class lacks, or that this model
    would pass over.
    """
    name = type(pipeline).__name__
    takes = call_parameters(type(pipeline))
    asked = {
        "steps": config.steps or None,
        "guidance": config.guidance,
        "true_cfg_scale": config.true_cfg_scale,
        "negative_prompt": config.negative_prompt or None,
        "text_length": config.text_length or None,
    }
    _check_values(config)
    for field, value in asked.items():
        if value is not None and ARGUMENTS[field] not in takes:
            raise InputError(
                f"{name} takes no {ARGUMENTS[field]}{_instead(field, takes)}", field=field, expected=_what(takes)
            )
    more = _more(config.more, name, takes)
    arguments = {ARGUMENTS[field]: value for field, value in asked.items() if value is not None}
    _refuse_ineffective(pipeline, name, config, {**takes, **more, **arguments})
    if (true_guidance := arguments.get("true_cfg_scale", takes.get("true_cfg_scale"))) is not None:
        if true_guidance > 1:
            arguments.setdefault("negative_prompt", NO_NEGATIVE)
        arguments["true_cfg_scale"] = true_guidance
    return {**arguments, **more}


def _check_values(config: SaysHow) -> None:
    if config.steps < 0:
        raise InputError(f"{config.steps} steps", field="steps", expected="1 or more, or 0 for the class's own")
    if config.text_length < 0:
        raise InputError(
            f"texts of {config.text_length} tokens", field="text_length", expected="1 or more, or 0 for the class's own"
        )
    for field, value in (("guidance", config.guidance), ("true_cfg_scale", config.true_cfg_scale)):
        if value is not None and not 0 <= value < float("inf"):
            raise InputError(f"{value} is no guidance", field=field, expected="0 or more")


def _refuse_ineffective(pipeline: Any, name: str, config: SaysHow, all_arguments: Mapping[str, Any]) -> None:
    """InputError for what the class would take and pass over."""
    known = PIPELINE_CLASSES.get(name)
    if config.guidance is not None:
        own = getattr(getattr(pipeline, "transformer", None), "config", {})
        if "true_cfg_scale" in all_arguments and own.get("guidance_embeds") is False:
            raise InputError(
                f"this model of {name} has no embedding of guidance, and would pass it over",
                field="guidance",
                expected="nothing, and true_cfg_scale where it is to be guided",
            )
        if (
            known is not None
            and known.distills_guidance
            and pipeline.config.get("is_distilled")
            and config.guidance > 1
        ):
            raise InputError(
                f"this model of {name} is distilled to do without guidance, and would pass it over",
                field="guidance",
                expected="nothing, or 1",
            )
    if not config.negative_prompt:
        return
    guided = all_arguments.get("true_cfg_scale")
    if guided is None and known is not None and known.guided_above is not None:
        guided, least = all_arguments.get("guidance_scale"), known.guided_above
        if guided is not None and guided <= least:
            raise InputError(
                f"a negative prompt without guidance: {guided:g}", field="guidance", expected=f"more than {least:g}"
            )
    elif guided is not None and guided <= 1:
        raise InputError(
            f"a negative prompt without true guidance: {guided:g}", field="true_cfg_scale", expected="more than 1"
        )


def _more(text: str, name: str, takes: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the field `more`. InputError."""
    if not text:
        return {}
    try:
        more = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"does not read: {error}", field="more", expected='{"cfg_normalization": true}') from error
    if not isinstance(more, dict):
        raise InputError(f"is no object: {text[:80]}", field="more", expected='{"cfg_normalization": true}')
    for argument in more:
        if argument not in takes:
            raise InputError(f"{name} takes no {argument}", field="more", expected=_what(takes))
        if argument in _OURS or argument in ARGUMENTS.values() or "embeds" in argument or argument.endswith("_mask"):
            ours = next((field for field, theirs in ARGUMENTS.items() if theirs == argument), None)
            raise InputError(
                f"{argument} is not said here",
                field="more",
                expected=f"the field {ours}" if ours else "arguments that nothing else works out",
            )
    return more


def _instead(field: str, takes: Mapping[str, Any]) -> str:
    """Where a class has its guidance, if not there."""
    if field not in ("guidance", "true_cfg_scale"):
        return ""
    if "distilled_guidance_scale" in takes:
        return (
            ": its guidance is that of its folder's guider; of a distilled model, distilled_guidance_scale (by `more`)"
        )
    other = {"guidance": "true_cfg_scale", "true_cfg_scale": "guidance_scale"}[field]
    return f": it is guided by {other}" if other in takes else ""


def _what(takes: Mapping[str, Any]) -> str:
    """What of our settings a class takes, in words."""
    ours = [field for field, argument in ARGUMENTS.items() if argument in takes]
    others = [
        name
        for name in takes
        if name not in _OURS and name not in ARGUMENTS.values() and "embeds" not in name and not name.endswith("_mask")
    ]
    return f"of it: {', '.join(ours)}" + (f"; by `more`: {', '.join(others)}" if others else "")
