"""A model's text without what it puts around it: preambles, labels, quotation marks around the whole, JSON with one
text, Markdown, closing words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

NOUN = r"(?:caption|description|prompt|wording|reflection|answer|instructions?|correction|output|response|summary"
NOUN += r"|sentence|result|rewrite|rewording|version|json|list|questions?|text prompt|alt text)"
ADJECTIVES = r"(?:(?:the|a|an|my|your|one|final|refined|improved|new|better|best|short|shortened|shorter|condensed"
ADJECTIVES += r"|detailed|revised|updated|image|suggested|possible|concise|simplified|rewritten|plain|optimi[sz]ed"
ADJECTIVES += r"|enhanced|proposed|one-sentence|single-sentence|brief)\s+){0,6}"
_ANSWER_ENDS = re.compile(
    rf"</({NOUN}|final|final_answer|refined_prompt)>|<\|end_of_(box|solution)\|>|<\|END_(RESPONSE)\|>", re.IGNORECASE
)
_ASSENT = r"(?:sure(?: thing)?|certainly|of course|absolutely|okay|ok|alright|all right|understood|got it|no problem"
_ASSENT += r"|gladly|with pleasure|happy to help)"
_POLITE = rf"(?:{_ASSENT}|thank you[^.!\n]{{0,60}}|thanks[^.!\n]{{0,60}}|hello|hi|great|yes)"
_BEFORE_NOUN = (
    r"(?:(?!(?:with|of|on|in|at|by|that|which|showing|saying|reading|holding|under|above|and)\b)[\w'’-]+,?\s+){0,8}"
)
_PREAMBLE = re.compile(
    rf"\W{{0,10}}(?:{_POLITE}\s*[!,.:;–—-]*\s+){{0,3}}"
    r"(?:(?:based on|from|for|looking at) (?:this|the|your) [^,:.\n]{0,60},\s*)?"
    r"(?:here(?:['’]s| is| are|['’]re)|below is|the following is|i(?:['’]ve| have) (?:written|prepared))\s+"
    rf"{_BEFORE_NOUN}{NOUN}\b[^:\n.!?]{{0,120}}?(?:[:：.!]\**\s*|\s*\n+|$)",
    re.IGNORECASE,
)
_EAGER = re.compile(
    rf"{_ASSENT}(?:[!.]+\s+|(?<!ok),\s+|\s*[!.,:]*\s*(?:\n\s*|$))"
    r"(?:(?:i['’]?d|i would|i['’]?ll|i will) be (?:happy|glad) to[^.!\n]*[.!]\s*)?",
    re.IGNORECASE,
)
_LABEL = re.compile(
    rf"[\s*_#>`\"“]*{ADJECTIVES}{NOUN}(?:\s*\d)?[*_`]*\s*(?:[:：][*_`\"”]*\s*|\n+\s*(?=\S))", re.IGNORECASE
)
_FINAL = re.compile(rf"(?:^|\n)[ \t*_#]{{0,10}}final\s+{ADJECTIVES}{NOUN}[*_]*\s*[:：][*_]*\s*", re.IGNORECASE)
_GOODBYE = re.compile(
    r"(?:\n|(?<=[.!?\"”])\s{1,10})\W{0,10}(?:let me know|feel free|i hope (?:this|that)|hope (?:this|that) helps"
    r"|would you like|if you(?:['’]d| would) like|please let me know|is there anything)\b[^\n]*\s*\Z",
    re.IGNORECASE,
)
_FENCE = re.compile(r"(?:^|\n)[ \t]*(```+|~~~+)[^\n`]*\n(.*?)(?:\n[ \t]*\1[ \t]*(?=\n|$)|\Z)", re.DOTALL)
_INLINE_FENCE = re.compile(r"\A```+(?:json|text|markdown|plaintext)?\s*(.*?)\s*```+\Z", re.DOTALL)
QUOTES = {'"': '"', "“": "”", "'": "'", "‘": "’", "«": "»", "„": "“", "`": "`", "「": "」", "『": "』", "*": "*"}
_KEYS = (  # of what was asked for, the surest first
    re.compile("reflect|instruct|correct", re.IGNORECASE),
    re.compile("caption|prompt|descri|answer|text|summary|sentence|output|result|response", re.IGNORECASE),
)


def unwrapped(text: str) -> str:
    """Without what stands around it, as often as there is something around it."""
    for _ in range(8):
        before = text
        text = _out_of_json(_without_frame(text.strip()))
        if text == before:
            break
    return _without_markdown(text)


def _without_frame(text: str) -> str:
    text = _in_tags(text)
    fenced = _FENCE.search(text) or _INLINE_FENCE.search(text)
    if fenced and (inside := fenced[fenced.lastindex or 0].strip()):
        text = inside
    elif fenced:
        text = text[: fenced.start()]
    finals = list(_FINAL.finditer(text))
    if finals and text[finals[-1].end() :].strip():
        text = text[finals[-1].end() :]
    if (eager := _EAGER.match(text)) is not None:
        text = text[eager.end() :]
    if (preamble := _PREAMBLE.match(text)) is not None:
        text = text[preamble.end() :]
    if (label := _LABEL.match(text)) is not None:
        text = text[label.end() :]
    text = _GOODBYE.sub("", text).strip()
    return _without_quotes(text)


def _in_tags(text: str) -> str:
    """What stands in the last pair of tags that name an answer."""
    ends = list(_ANSWER_ENDS.finditer(text))
    if not ends:
        return text
    name, boxed, cohere = (part and part.lower() for part in ends[-1].groups())
    opening = f"<{name}>" if name else f"<|begin_of_{boxed}|>" if boxed else f"<|start_{cohere}|>"
    start = text.lower().rfind(opening, 0, ends[-1].start())
    return text if start < 0 else text[start + len(opening) : ends[-1].start()].strip()


def _without_quotes(text: str) -> str:
    """Without quotation marks around the whole, of which none stands inside."""
    if len(text) < 2 or QUOTES.get(text[0]) != text[-1]:
        return text
    inside = re.sub(r"(?<=\w)['’](?=\w)", "", text[1:-1])
    return text if text[0] in inside or text[-1] in inside else text[1:-1].strip()


def _out_of_json(text: str) -> str:
    if text[:1] not in ('"', "[", "{"):
        return text
    try:
        said = json.loads(text)
        return " ".join(_strings(said)) if isinstance(said, (str, list, dict)) else text
    except (ValueError, RecursionError):
        return text


def _strings(said: Any) -> Iterator[str]:
    """The texts in plain data, in order; of an object with keys that name what was asked for, theirs alone."""
    if isinstance(said, str):
        yield said
    elif isinstance(said, dict):
        named = [[value for key, value in said.items() if keys.search(key)] for keys in _KEYS]
        for value in next((values for values in named if values), said.values()):
            yield from _strings(value)
    elif isinstance(said, list):
        for value in said:
            yield from _strings(value)


_LIST = re.compile(r"[ \t]*(?:[-*•‣▪+–][ \t]+|\(?\d{1,2}[.)][ \t]+)")
_RULE = re.compile(r"[ \t]*(?:-{3,}|\*{3,}|_{3,}|={3,}|`{3,}\w*|~{3,})[ \t]*")
_MARKS = (
    (re.compile(r"!?\[([^\]\n]{0,300})\]\([^)\s]{0,300}\)"), r"\1"),  # links, pictures
    (re.compile(r"(\*\*|__)(?=\S)(.{1,2000}?)(?<=\S)\1", re.DOTALL), r"\2"),
    (re.compile(r"(?<![\w*])\*(?=[^\s*])([^*\n]+?)(?<=\S)\*(?![\w*])"), r"\1"),
    (re.compile(r"(?<![\w_])_(?=[^\s_])([^_\n]+?)(?<=\S)_(?![\w_])"), r"\1"),
    (re.compile(r"`+([^`\n]+)`+"), r"\1"),
    (re.compile(r"</?(?:p|br|b|i|u|em|strong|div|span|h[1-6]|ul|ol|li|code|pre|blockquote)\s*/?>", re.I), " "),
)


def _without_markdown(text: str) -> str:
    """Plain lines; items of a list and paragraphs end as sentences do."""
    if not re.search(r"[*_`#>\[\]\n]|^\s*[-•+\d(]", text):
        return text
    for mark, plain in _MARKS:
        text = mark.sub(plain, text)
    lines = text.split("\n")
    numbered = sum(bool(re.match(r"\s*\(?\d{1,2}[.)]\s", line)) for line in lines)
    sentences: list[str] = []
    ended = True
    for line in lines:
        line = re.sub(r"^\s*(?:>\s?)+", "", line)
        is_heading = re.match(r"\s{0,3}#{1,6}\s+", line)
        line = re.sub(r"^\s{0,3}#{1,6}\s+|\s+#+\s*$", "", line) if is_heading else line
        item = _LIST.match(line)
        if item and item.group().strip()[-1:] in ".)" and numbered < 2 and item.group().strip(" \t(.)") != "1":
            item = None
        if _RULE.fullmatch(line) or not line.strip():
            ended = True
            continue
        line = (line[item.end() :] if item else line).strip()
        if not line:
            continue
        if sentences and (ended or item) and sentences[-1][-1] not in ".!?:;,…。！？":
            sentences[-1] += "."
        sentences.append(line)
        ended = bool(item or is_heading)
    return " ".join(sentences)
