"""A prompt on the command line: one text, in quotes. Without them a shell hands over its words one by one."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from pipelines.prompts.known_prompts import require_known
from schemas.errors import InputError
from schemas.foreign_json import quote, safe_text
from schemas.terminal import say_error

_EXAMPLE = 'for example "a photo of two red circles"'


def one_prompt(words: Sequence[str]) -> str:
    """The prompt. InputError where there is none, and for one that came in pieces."""
    if len(words) > 1:
        raise _in_pieces(words)
    return checked_prompt(words[0] if words else "")


def checked_prompt(prompt: str) -> str:
    """The prompt. InputError for an empty one."""
    if not prompt.strip():
        raise InputError("the prompt is empty", field="prompt", expected=_EXAMPLE)
    return prompt


def prompt_of_images(prompt: str, images: Sequence[Path]) -> str:
    """The prompt of a command that takes images behind it. InputError where its words were taken for images."""
    words = [str(path) for path in images if not path.suffix and "/" not in str(path) and not path.exists()]
    if words and not any(blank in prompt.strip() for blank in " \t\n"):
        raise _in_pieces([prompt, *words])
    return checked_prompt(prompt)


def several_prompts(prompts: Sequence[str]) -> None:
    """InputError for an empty one, and where all are single words: that is one prompt without quotes."""
    for prompt in prompts:
        checked_prompt(prompt)
    if len(prompts) > 1 and not any(len(prompt.split()) > 1 for prompt in prompts):
        raise _in_pieces(prompts, "; several prompts of one word each: --prompts FILE")


def known_prompt(prompt: str, models: Iterable[str], file: str | None = None, line: int | None = None) -> str:
    """The prompt in the words that the models learnt from, which is said where it was typed otherwise. InputError for
    what they cannot know."""
    learnt = require_known(prompt, models, file, line)
    if learnt != prompt:
        say_error(f"asked as {quote(safe_text(learnt, 200))}, as these models learnt it")
    return learnt


def _in_pieces(words: Sequence[str], or_else: str = "") -> InputError:
    said = " ".join(words)
    return InputError(
        f"the prompt came as {len(words)} words: quote it", field="prompt", expected=f'"{said[:200]}"{or_else}'
    )
