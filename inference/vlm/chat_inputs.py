"""From chat requests to what a VLM of transformers is given: the processor's own chat template, thinking switched off.

Templates and processors differ: some refuse a system turn or leave it out, some write the first token themselves, some
want each text's images in a list of its own, and some give more than the model takes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inference.interfaces import ChatRequest
from schemas.errors import InputError

_OPEN_THOUGHT = re.compile(r"<think>\s*\Z")
_CLOSED_THOUGHT = "\n</think>\n\n"
_PROBE = "Is it so?"
_MARK = "MARKED"  # an answer that stands nowhere in a template


def chat_messages(request: ChatRequest) -> list[dict[str, Any]]:
    """The messages that chat templates and OpenAI-compatible servers take: system if given, then images, then text."""
    system = [] if request.system is None else [{"role": "system", "content": request.system}]
    content = [{"type": "image"} for _ in request.images]
    return [*system, {"role": "user", "content": [*content, {"type": "text", "text": request.text}]}]


def chat_text(processor: Any, request: ChatRequest) -> str:
    """A request as the model reads it, up to where its answer begins. A system prompt that the template has no place
    for stands before the user's text. A thought that the template opens is closed at once."""
    try:
        text = _rendered(processor, chat_messages(request))
    except Exception as error:  # the template's own raise_exception, or a content that is no string
        if request.system is None:
            raise InputError(
                f"its chat template does not take a request: {_short(error)}",
                file=_name_of(processor),
                field="chat_template",
                expected="a template of turns whose content is a list of images and texts",
            ) from error
        text = ""
    if request.system is not None and request.system.strip() not in text:
        merged = ChatRequest(f"{request.system}\n\n{request.text}", request.images)
        text = _rendered(processor, chat_messages(merged))
    return text + _CLOSED_THOUGHT if _OPEN_THOUGHT.search(text) else text


def answer_frame(processor: Any) -> tuple[str, str]:
    """What stands between a request, as `chat_text` writes it, and its answer, and what stands behind the answer: the
    end of turn, which holds a token that ends generation."""
    user = {"role": "user", "content": [{"type": "text", "text": _PROBE}]}
    told = {"role": "assistant", "content": [{"type": "text", "text": _MARK}]}
    before, whole = _rendered(processor, [user]), _rendered(processor, [user, told], prompt=False)
    start = whole.rindex(_MARK)
    lead = whole[len(before) : start] if whole.startswith(before) else ""
    end, eos = whole[start + len(_MARK) :], processor.tokenizer.eos_token
    ends = end if any(token in end for token in processor.tokenizer.get_added_vocab()) else f"{end.rstrip()}{eos}"
    return lead, ends


def model_inputs(processor: Any, texts: Sequence[str], images: Sequence[Sequence[np.ndarray]], **settings: Any) -> Any:
    """The processor's tensors, padded to the tokenizer's side. images: each text's, uint8 (H, W, 3); of a batch all
    texts have as many. settings: of the processor's call, such as do_resize."""
    bos = processor.tokenizer.bos_token
    # Some processors have a padding side of their own.
    said: dict[str, Any] = {"padding_side": processor.tokenizer.padding_side, **settings}
    if bos and texts[0].startswith(bos):
        said["add_special_tokens"] = False
    shown = [list(one) for one in images] if any(images) else None
    return processor(text=list(texts), images=shown, padding=True, return_tensors="pt", **said)


def accepted(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Those inputs that the model's class has arguments for, numbers with a point in its type."""
    takes = (model.forward, model.prepare_inputs_for_generation)
    names = {name for function in takes for name in inspect.signature(function).parameters}
    return {
        name: value.to(model.dtype) if value.is_floating_point() else value
        for name, value in inputs.items()
        if name in names
    }


def prepare(processor: Any, folder: Path) -> Any:
    """The processor, ready for batches. InputError (file) for one that cannot ask a VLM about an image."""
    for part in ("tokenizer", "image_processor"):
        if getattr(processor, part, None) is None:
            raise InputError(
                f"no {part.replace('_', ' ')}",
                file=str(folder),
                expected="a VLM's folder with its processor (preprocessor_config.json or processor_config.json)",
            )
    if not (getattr(processor, "chat_template", None) or processor.tokenizer.chat_template):
        raise InputError(
            "no chat template",
            file=str(folder),
            expected="a model that was tuned to answer, with a chat_template.jinja (or in its tokenizer_config.json)",
        )
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    tokens = processor.tokenizer(_PROBE, add_special_tokens=False).input_ids
    if "".join(processor.tokenizer.decode(tokens).lower().split()) != "".join(_PROBE.lower().split()):
        raise InputError(
            f"its tokenizer writes {_PROBE!r} in {len(tokens)} tokens and does not read it again",
            file=str(folder),
            expected="the tokenizer's own files (tokenizer.json, or a vocab.json with merges.txt, or tokenizer.model)",
        )
    image = getattr(processor, "image_token", None)
    text = chat_text(processor, ChatRequest(_PROBE, (np.zeros((32, 32, 3), np.uint8),)))
    if _PROBE not in text or (isinstance(image, str) and image not in text):
        raise InputError(
            f"its chat template makes {text[:200]!r} of an image and {_PROBE!r}",
            file=str(folder),
            field="chat_template",
            expected=f"a template that puts {image!r} and the text into the turn",
        )
    return processor


def _rendered(processor: Any, messages: list[dict[str, Any]], prompt: bool = True) -> str:
    template = str(getattr(processor, "chat_template", None) or processor.tokenizer.chat_template)
    switch = {"enable_thinking": False} if "enable_thinking" in template else {}
    return processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt, **switch)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _name_of(processor: Any) -> str:
    return str(getattr(processor.tokenizer, "name_or_path", "") or type(processor).__name__)
