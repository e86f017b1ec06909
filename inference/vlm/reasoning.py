"""An answer without what a model thought before it: Qwen's and DeepSeek's `<think>`, Kimi's `◁think▷`, Magistral's
`[THINK]`, Cohere's `<|START_THINKING|>`, the channels of gpt-oss and Gemma, headings; and without the tokens of its
chat template."""

from __future__ import annotations

import re

from inference.vlm.wrapping import ADJECTIVES, NOUN, QUOTES
from schemas.plain_text import readable

_MAX_ANSWER = 400_000  # with its reasoning; what is longer was written by no model that was asked for a sentence

_THOUGHT = r"(?:\w{1,20}[:_-])?(?:think(?:ing)?|thoughts?|reason(?:ing)?|rationale|scratch_?pad|analysis|reflecting)"
_THOUGHT += r"(?:_(?:process|start|begin))?"
_OPENS, _CLOSES = r"(?:<|\[|◁|⟨|&lt;)[|｜]?", r"[|｜]?(?:>|\]|▷|⟩|&gt;)"
_THINKING = re.compile(
    rf"{_OPENS}(?:(?P<end>/|end[_ ]of[_ ]|end_)|begin[_ ]of[_ ]|start_)?\s*{_THOUGHT}(?P<late>_end)?"
    rf"(?:\s[^<>\[\]\n]{{0,80}})?{_CLOSES}"
    r"|(?P<unused_end><unused95>)|<unused94>(?:thought)?",
    re.IGNORECASE,
)
_BARE_CHANNEL = re.compile(r"\Aanalysis(?=[A-Z]).*?(?:assistantfinal|\Z)", re.DOTALL)  # where the tokens were cut out
_CHANNEL = re.compile(r"<\|channel\|?>\s*(\w*)[^<]{0,80}?(?:<\|message\|>|\n|(?=<channel\|>))", re.IGNORECASE)
_TURN_ENDS = re.compile(
    r"<\|(?:im_end|end|eot_id|eom_id|endoftext|end_of_text|end_of_turn|return|user|call)\|>|<(?:end_of_turn|eos|/s)>|</s>"
    r"|<｜end▁of▁sentence｜>|<\|END_OF_TURN_TOKEN\|>",
    re.IGNORECASE,
)
_TURN_STARTS = re.compile(
    r"(?:<\|im_start\|>|<\|start\|>|<\|start_header_id\|>|<start_of_turn>)\s*(?:assistant|model|final)?"
    r"(?:<\|end_header_id\|>)?\s*|\[/?INST\]|\A(?:assistant|ai)\s*(?::|\n)\s*",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"<[|｜][^<>|｜\n]{1,40}[|｜]>|<(?:pad|bos|s|image|unk|img)>", re.IGNORECASE)

_THOUGHT_LABEL = re.compile(
    r"[\s*_#]*(?:thinking(?: process)?|thoughts?|thought process|(?:my |step-by-step )?reasoning|chain of thought"
    r"|analysis)[*_]*\s*(?::[*_]*\s|(?:\.{3}|…)?\n)",
    re.IGNORECASE,
)
_ANY_LABEL = re.compile(rf"\n[ \t*_#]{{0,10}}{ADJECTIVES}{NOUN}[*_]*\s*(?:[:：][*_]*\s*|\n)", re.IGNORECASE)


def answer_of(answer: str) -> str | None:
    """What a model answered, without its reasoning and its template's tokens, otherwise as it wrote it; None where
    nothing but reasoning is left. Of an absurdly long one the beginning."""
    text = readable(answer[:_MAX_ANSWER]).strip()
    told = _without_thoughts(_last_channel(_unhidden(_BARE_CHANNEL.sub("", text))))
    told = _TOKEN.sub("", _TURN_STARTS.sub("", _first_turn(told))).strip()
    if _THOUGHT_LABEL.match(told):
        labels = list(_ANY_LABEL.finditer(told))
        told = told[labels[-1].end() :] if labels else ""
    return told or (None if re.search(r"\w", text) else "")


def _unhidden(text: str) -> str:
    """Without what a page would fold or not show."""
    for opening, closing in (("<!--", "-->"), ("<details>", "</details>")):
        first, *rest = text.split(opening)
        text = first + "".join(part.partition(closing)[2] if closing in part else opening + part for part in rest)
    return text


def _last_channel(text: str) -> str:
    """Of an answer in channels, the final one; where there is none, what is in no channel of thoughts."""
    parts = list(_CHANNEL.finditer(text))
    if not parts:
        return text
    last = parts[-1]
    if last[1].lower() in ("final", "response", "answer", ""):
        return text[last.end() :]
    _, ended, after = text[last.end() :].partition("<channel|>")
    return after if ended else text[: parts[0].start()]


def _without_thoughts(text: str) -> str:
    """What stands behind the last closing tag; behind no closing one, what stands before the first opening one. A tag
    in quotation marks is written on something."""
    marks = [one for one in _THINKING.finditer(text) if not _is_quoted(text, one)]
    if not marks:
        return text
    ends = [one for one in marks if one["end"] or one["late"] or one["unused_end"]]
    if not ends:
        return text[: marks[0].start()]
    after = text[ends[-1].end() :]
    opened = [one for one in marks if one.start() >= ends[-1].end()]
    if opened:
        after = text[ends[-1].end() : opened[0].start()]
    return after if re.search(r"\w", after) else text[: marks[0].start()] if marks[0] not in ends else ""


def _is_quoted(text: str, one: re.Match[str]) -> bool:
    around = text[max(0, one.start() - 1) : one.start()], text[one.end() : one.end() + 1]
    return around[0] in QUOTES and around[0] != "" and around[1] == QUOTES[around[0]]


def _first_turn(text: str) -> str:
    """Before the answer's end, where a model went on and played the user."""
    text = _TURN_STARTS.sub("", text, count=1) if _TURN_STARTS.match(text) else text
    parts = [part for part in _TURN_ENDS.split(text) if re.search(r"\w", part)]
    return parts[0] if parts else ""
