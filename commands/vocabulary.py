"""`python -m pipelines vocabulary --out FILE`: what prompts are composed of, brainstormed by a language model."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from commands.arguments import parse
from inference.model_store import SHIPPED
from inference.vlm.vlm import VlmConfig
from pipelines.prompts.brainstorm import BrainstormConfig, Brainstormed, brainstorm_vocabulary
from schemas.errors import InputError
from schemas.new_file import write_new
from schemas.terminal import say

_SHOWN = 20


def _language_model() -> VlmConfig:
    """Room for fifty objects an answer."""
    arguments = ("--max-model-len", "8192", "--enforce-eager")
    return VlmConfig(max_new_tokens=4096, constrain_json=True, vllm_arguments=arguments)


@dataclass(frozen=True)
class VocabularyArgs:
    """Have a language model name kinds of objects and colours, and write them as a vocabulary that `run` composes
    prompts from: --vlm.model "" with --vlm.endpoint-model and --vlm.base-url for a model at an address."""

    out: Annotated[Path, tyro.conf.arg(metavar="FILE", help="the vocabulary, JSON; for `run --vocabulary FILE`")]
    brainstorm: Annotated[BrainstormConfig, tyro.conf.arg(name="")] = field(default_factory=BrainstormConfig)
    answers: Path = Path("runs/vocabulary")
    """Where the model's answers are kept: the same call gives the same vocabulary, and asks nothing again."""
    vlm: VlmConfig = field(default_factory=_language_model)


def main(argv: Sequence[str]) -> int:
    """0 when the file is written."""
    arguments = parse(VocabularyArgs, argv, "vocabulary")
    if arguments.out.is_dir():
        raise InputError("is a folder", file=str(arguments.out), field="--out", expected="a file's name")
    if arguments.vlm.model.partition("/")[0] in SHIPPED:
        raise InputError(
            f"{arguments.vlm.model} knows the words of its own small world alone, and can name no others",
            field="--vlm.model, --vlm.endpoint-model, --vlm.base-url",
            expected='a language model: --vlm.model "" --vlm.endpoint-model NAME --vlm.base-url http://host:8000/v1, '
            "or the folder or hub id of a Qwen2.5-VL (the small world's own words are `--vocabulary micro`)",
        )
    from commands.endpoint_errors import explained
    from inference.vlm.journal import StorageJournal
    from pipelines.prompts.vocabulary import vocabulary_text
    from schemas.storage import LocalStorage

    say = functools.partial(print, flush=True)
    with explained(arguments.vlm):
        vlm = arguments.vlm.open(StorageJournal(LocalStorage(arguments.answers)))
        found = brainstorm_vocabulary(arguments.brainstorm, vlm, arguments.vlm.name, say)
    write_new(arguments.out, vocabulary_text(found.vocabulary), "--out")
    _print_summary(found, arguments)
    return 0


def _print_summary(found: Brainstormed, arguments: VocabularyArgs) -> None:
    from pipelines.prompts.compose_rules import count_compositions

    words = found.vocabulary
    num_prompts = sum(count_compositions(words).values())
    say(
        f"{arguments.out}: {len(words.classes)} classes, {len(words.colors)} colours ({', '.join(words.colors)}), "
        f"{num_prompts:,} prompts at most, from {found.num_answers} answers of {arguments.vlm.name}"
    )
    if found.turned_down:
        say(f"  turned down: {len(found.turned_down)}")
        for one in found.turned_down[:_SHOWN]:
            say(f"    {one.key}: {one.name}: {one.why}")
        if len(found.turned_down) > _SHOWN:
            say(f"    and {len(found.turned_down) - _SHOWN} more")
    say(f"compose prompts from it: python -m pipelines run --preset flux --vocabulary {arguments.out} ...")
