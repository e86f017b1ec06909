"""What an editor is told: a template with the prompt and the reflection in it."""

from __future__ import annotations

import logging
import re
from typing import Any

from inference.vlm.prompts import load_prompt
from schemas.errors import InputError

log = logging.getLogger(__name__)

_PLACES = re.compile(r"\{(prompt|reflection)\}")
_CONTROL_TOKENS = re.compile(r"<\|[\w-]+\|>|\[/?(?:IMG|INST)\w*\]")
"""Of the language models that read instructions: an image's place among them would ask for an image."""


def load_template(name: str) -> str:
    """A shipped template ("edit"), or the file of that path. InputError where it has no place for the reflection."""
    template = load_prompt(name)
    if "{reflection}" not in template:
        raise InputError(
            f"the template has no {{reflection}}: {template!r}",
            field="template",
            expected="a place for {reflection}, and for {prompt} if it is wanted",
        )
    return template


def instruction_of(template: str, prompt: str, reflection: str) -> str:
    """The template filled in. Without a reflection the prompt stands for it: to nothing there is no edit."""
    said = {"prompt": prompt.strip(), "reflection": reflection.strip() or prompt.strip()}
    filled = _PLACES.sub(lambda place: said[place[1]], template)
    return _CONTROL_TOKENS.sub(" ", filled).strip()


def fit_longcat(pipeline: Any, text: str) -> str:
    """A text, or a beginning of it that `LongCatImageEditPipeline` reads to its end. The class means to cut longer
    texts itself, and fails at the attempt (diffusers 0.42: `len` of a number)."""
    from diffusers.pipelines.longcat_image.pipeline_longcat_image_edit import split_quotation

    def num_tokens(part: str) -> int:
        read = pipeline.tokenizer
        pieces = [list(words) if quoted else [words] for words, quoted in split_quotation(part)]
        return sum(len(read(one, add_special_tokens=False)["input_ids"]) for piece in pieces for one in piece)

    longest = pipeline.tokenizer_max_length
    if num_tokens(text) <= longest:
        return text
    log.warning("an instruction of more than %d tokens is cut: %s ...", longest, text[:80])
    fits, too_long = 0, len(text)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        fits, too_long = (middle, too_long) if num_tokens(text[:middle]) <= longest else (fits, middle)
    return text[:fits]
