"""Sentences with which a model says that it does not answer, or thinks aloud instead."""

from __future__ import annotations

import re

_NOT = r"(?:can(?:['’]?t|not| not)(?!\s+believe)|could(?:n['’]?t| not)|won['’]?t|will not"
_NOT += r"|(?:am|['’]m) (?:unable|not (?:able|comfortable|allowed|permitted|capable))"
_NOT += r"|(?:do not|don['’]?t) (?:have|feel|see|think i can|know|understand)|see no"
_NOT += r"|(?:must|have to|need to|will|respectfully)(?: respectfully)? decline|decline|refuse"
_NOT += r"|(?:am|['’]m) (?:just |only )?an? (?:ai|language|large|text)|need (?:more|an image|the image))\b"
_PICTURE = r"(?:image|picture|photo|prompt|description|text)"
_POLITE = (
    r"(?:oh|well|hello|hi|thank you[^,.!]{0,60}|thanks[^,.!]{0,60}|unfortunately|regrettably|however|but|and|sure|okay)"
)
_BEGINNINGS = (
    rf"i\s*{_NOT}",
    r"(?:i['’]?m|i am|we['’]?re|we are) (?:so |very |really |truly |deeply )?(?:sorry|afraid)"
    r"(?=[,.!;:—–-]|\s+(?:but|for|that|to|about|i|as|this|your)\b|\s*$)",
    r"(?:so |very )?sorry[,.!]?\s+(?:but\s+)?(?:i\b|as an\b|that\b|(?:this|your) request|unable|can(?:['’]?t|not)\b)",
    r"(?:i|we|my (?:sincere |deepest )?|our |please accept my )\s*apolog(?:i[sz]e|ies)\b",
    r"apologies(?:,| but|\.)",
    r"as an?\s+(?:\w+[\s-]+){0,3}(?:ai|artificial intelligence|language model|llm|assistant|chatbot)\b"
    r"[^.!?]{0,80}?\b(?:i|my)\b",
    r"(?:this|the|your) (?:request|prompt|content|image|question)\s+(?:\w+\s+){0,3}"
    r"(?:violates?|goes against|is not allowed|is inappropriate|(?:has been|was) (?:blocked|flagged|filtered|rejected)"
    r"|cannot be (?:fulfilled|processed|described|viewed|displayed))",
    rf"(?:there (?:is|was) no|no) {_PICTURE}\s+(?:\w+\s+)?(?:provided|attached|given|uploaded|to (?:describe|shorten))",
    rf"please (?:provide|upload|attach|share|send)\s+(?:\w+\s+){{0,2}}{_PICTURE}",
    r"(?:it is|it['’]s) (?:against|not possible for me)",
    r"i['’]?d (?:rather|prefer) not",
    r"(?:request|content) (?:blocked|filtered|rejected)",
    r"error:\s",
    r"no puedo (?:ayudar|describir|proporcionar)|lo siento[,.]",
    r"ich kann (?:das|diese|dabei|ihnen|dir)|es tut mir leid,|tut mir leid,",
    r"je ne peux pas|(?:je suis )?désolée?[,.]",
    r"mi dispiace[,.]|(?:me )?desculpe[,.]|sinto muito|к сожалению|извините",
    r"(?:很|非常)?抱歉|对不起|對不起|作为(?:一个|一名)?(?:ai|人工智能)|我(?:无法|不能|無法)",
    r"申し訳|すみません|죄송",
)
_REFUSAL = re.compile(rf"(?:{_POLITE}[,.!]?\s+){{0,3}}(?:{'|'.join(_BEGINNINGS)})", re.IGNORECASE)
_QUOTED = re.compile(r"\"[^\"\n]*\"|“[^”\n]*”|‘[^’\n]*’|«[^»\n]*»|「[^」\n]*」|(?<!\w)'[^\n]*?'(?!\w)")
_SENTENCE = re.compile(r"(?<=[.!?。！？])\s*|\n+")

_TASK = r"(?:write|describe|shorten|condense|produce|create|generate|answer|output|respond|come up|figure|analy[sz]e)"
_ALOUD = re.compile(
    r"(?:okay|ok|alright|hmm+|well|so|right)?[,.…]*\s*(?:(?:so|now|first)[,.]?\s+)?(?:"
    r"the user (?:wants|is asking|asks|asked|has|provided|needs|gave)"
    r"|let me (?:think|analy[sz]e|look|start|see|break|re-?read)|let['’]?s (?:think|analy[sz]e|break|start by)"
    rf"|(?:i|we) (?:(?:need|have) to|should) {_TASK})\b",
    re.IGNORECASE,
)


def is_refusal(text: str) -> bool:
    """Whether one of its sentences, outside of quotation marks, begins as a refusal does."""
    plain = _QUOTED.sub('""', text)
    return any(_REFUSAL.match(sentence) for sentence in _SENTENCE.split(plain) if sentence)


def is_thinking_aloud(text: str) -> bool:
    """Whether it begins as reasoning without any mark does."""
    return _ALOUD.match(text) is not None
