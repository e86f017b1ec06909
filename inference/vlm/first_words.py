"""How probable it is that an answer begins with a word, exactly, in any tokenizer.

A word is written in several ways: as it is, in small letters, with a capital or all of them, with a space before it;
and in each of them it is one token or several. The probability of a word is the sum over these spellings of the
product of their tokens' probabilities. What only decorates an answer (line breaks, asterisks, quotation marks) is
looked through where it is what the model would write first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from schemas.errors import UnscoredError

ANSWER_FLOOR = 0.05
"""How probable Yes and No must be together where one of them is asked for."""
DECORATION = " \t\r\n*_#>`\"'“”‘’«»([-:."
SEEN_SHARE = 1e-4
"""A spelling that the model uses this much less than its usual one is passed over: no token of it is looked at."""
MAX_DECORATIONS = 3
OPPOSITE = {"yes": "No", "no": "Yes"}
_TOLD_TOKENS = 5

Prefix = tuple[int, ...]
NextTokens = Callable[[Sequence[int], Sequence[Prefix]], Iterator[np.ndarray]]
"""Rows, and tokens behind each one's request -> float32 (vocabulary,) each: the next token's probabilities."""


@dataclass
class _Branch:
    """A beginning of an answer, how probable it is, and what may follow that makes it one of the words: for each way
    of writing (`spellings`), or for a word that has begun, the tokens of each word."""

    row: int
    prefix: Prefix
    probability: float
    ways: list[list[Prefix]]
    decorations: int = 0
    begun: bool = False


@dataclass
class FirstWords:
    """probabilities: float64 (n, words). beginnings: of each row the likeliest first tokens, the likeliest first."""

    probabilities: np.ndarray
    beginnings: list[list[tuple[str, float]]] = field(default_factory=list)


def spellings(tokenizer: Any, words: Sequence[str]) -> list[list[Prefix]]:
    """Ways of writing, each with the tokens of every word in it. ValueError for words that begin alike."""
    ways: list[list[Prefix]] = []
    for change in (str, str.lower, str.capitalize, str.upper):
        for lead in ("", " "):
            written = [f"{lead}{change(word)}" for word in words]
            for encode in (_alone, _behind_a_line):
                way = [encode(tokenizer, text) for text in written]
                if all(way) and way not in ways:
                    ways.append(way)
    for a in range(len(words)):
        for b in range(len(words)):
            if a != b and any(_begins(w[b], v[a]) for v in ways for w in ways):
                raise ValueError(f"the words {', '.join(words)} do not start with different tokens in this vocabulary")
    return ways


def find_first_words(tokenizer: Any, count: int, words: Sequence[str], next_tokens: NextTokens) -> FirstWords:
    """Of `count` rows. next_tokens is asked once for all rows, and again only for words of several tokens, and for
    answers that begin with decoration."""
    ways = spellings(tokenizer, words)
    found = FirstWords(np.zeros((count, len(words))), [[] for _ in range(count)])
    branches = [_Branch(row, (), 1.0, ways) for row in range(count)]
    while branches:
        following: list[_Branch] = []
        asked = next_tokens([b.row for b in branches], [b.prefix for b in branches])
        for branch, chances in zip(branches, asked, strict=True):
            if not branch.prefix:
                found.beginnings[branch.row] = _likeliest(tokenizer, chances)
            following += _grown(tokenizer, branch, chances, found.probabilities[branch.row])
        branches = following
    return found


def check_answered(
    found: FirstWords, words: Sequence[str], asked: Sequence[str], floor: float, model: str, how: str
) -> None:
    """UnscoredError where yes or no was asked for and an answer begins with neither. words: those of `found`; asked:
    each row's text; floor: how probable they must be together; how: what to do about it."""
    if not floor or not {word.lower() for word in words} & OPPOSITE.keys():
        return
    sums = found.probabilities.sum(1)
    odd = [row for row in range(len(asked)) if not sums[row] >= floor]
    if odd:
        row = odd[0]
        said = ", ".join(f"{text!r} ({chance:.2f})" for text, chance in found.beginnings[row])
        raise UnscoredError(
            f"{model} does not answer {' or '.join(words)} to {asked[row][-120:]!r}, but begins with {said}: together "
            f"they have {sums[row]:.3f} of 1 ({len(odd)} of {len(asked)} requests)\n"
            f"  expected: at least {floor:g} (answer_floor of its VLM), so that there is something to score; {how}"
        )


def with_opposites(words: Sequence[str]) -> list[str]:
    """The words, and No beside a lone Yes, or Yes beside a lone No: what an answer may be at all."""
    known = {word.lower() for word in words}
    return [
        *words,
        *(OPPOSITE[word] for word in sorted(known & OPPOSITE.keys()) if OPPOSITE[word].lower() not in known),
    ]


def is_decoration(text: str) -> bool:
    """Whether a token's text is nothing but signs around an answer."""
    return bool(text) and not text.strip(DECORATION)


def _grown(tokenizer: Any, branch: _Branch, chances: np.ndarray, found: np.ndarray) -> list[_Branch]:
    """Adds to `found` what ends here, and returns what goes on."""
    ways = _used(branch.ways, chances)
    on: dict[int, list[list[Prefix]]] = {}
    for word in range(len(found)):
        for tokens in _shortest({way[word] for way in ways if way[word]}):
            if len(tokens) == 1:
                found[word] += branch.probability * float(chances[tokens[0]])
            else:
                rest: list[Prefix] = [()] * len(found)
                rest[word] = tokens[1:]
                on.setdefault(tokens[0], []).append(rest)
    grown = [_next(branch, token, chances, ways, begun=True) for token, ways in on.items()]
    first = int(chances.argmax())
    if not branch.begun and branch.decorations < MAX_DECORATIONS and is_decoration(_text(tokenizer, first)):
        plain = _next(branch, first, chances, branch.ways, begun=False)
        plain.decorations = branch.decorations + 1
        grown.append(plain)
    return grown


def _next(branch: _Branch, token: int, chances: np.ndarray, ways: list[list[Prefix]], begun: bool) -> _Branch:
    chance = branch.probability * float(chances[token])
    return _Branch(branch.row, (*branch.prefix, token), chance, ways, branch.decorations, begun)


def _used(ways: list[list[Prefix]], chances: np.ndarray) -> list[list[Prefix]]:
    """Those in which the model begins words at all, beside its usual one."""
    mass = [sum({tokens[0]: float(chances[tokens[0]]) for tokens in way if tokens}.values()) for way in ways]
    return [way for way, share in zip(ways, mass, strict=True) if share >= SEEN_SHARE * max(mass)]


def _shortest(sequences: set[Prefix]) -> list[Prefix]:
    """Without those that begin with another, which has counted them."""
    return [one for one in sorted(sequences) if not any(o != one and _begins(one, o) for o in sequences)]


def _begins(tokens: Prefix, start: Prefix) -> bool:
    return tokens[: len(start)] == start


def _alone(tokenizer: Any, text: str) -> Prefix:
    return tuple(tokenizer(text, add_special_tokens=False).input_ids)


def _behind_a_line(tokenizer: Any, text: str) -> Prefix:
    """Its tokens where a turn ends in a line break: tokenizers that put a space before a text put none there."""
    line, both = _alone(tokenizer, "\n"), _alone(tokenizer, f"\n{text}")
    return both[len(line) :] if _begins(both, line) else ()


def _likeliest(tokenizer: Any, chances: np.ndarray) -> list[tuple[str, float]]:
    few = min(_TOLD_TOKENS, len(chances))
    top = np.argpartition(-chances, few - 1)[:few]
    return [(_text(tokenizer, int(i)), float(chances[i])) for i in top[np.argsort(-chances[top], kind="stable")]]


def _text(tokenizer: Any, token: int) -> str:
    """Of one token; a lone space, which some decoders leave out, too."""
    return tokenizer.decode([token]) or (tokenizer.convert_ids_to_tokens(token) or "").replace("▁", " ")
