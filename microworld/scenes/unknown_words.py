"""Prompts that the micro world has no words for: what its reader must say nothing about instead of inventing.

Words are made of syllables, of other scripts, or are English ones; COCO's classes are none of them, so that prompts of
those measure what was learnt.
"""

from __future__ import annotations

import re
from typing import TypeVar

import numpy as np

from microworld.scenes.captions import class_plural
from microworld.scenes.world import COLORS, SHAPES

_NOUNS = """
fox castle wizard letter candle river mountain robot dragon astronaut violin lighthouse garden mushroom whale owl
pencil teapot hat shoe window door house tree flower leaf moon sun cloud rocket planet island bridge tower street
village king queen soldier doctor child woman man girl boy baby face hand eye arrow cube sphere pyramid hexagon oval
rectangle pentagon cylinder cone spiral crescent polygon ball box coin key lamp mirror crown sword shield flag map
penguin tiger lion monkey rabbit fish snake spider butterfly bee ant frog turtle bread cheese cookie soup salad
coffee tea wine glass plate table mask guitar piano drum trumpet camera phone radio engine wheel rope stone sand
snow rain storm fire smoke shadow dream idea freedom silence memory time city market church desert forest jungle ocean
beach field cave volcano waterfall logo poster portrait landscape cartoon statue painting pattern text sign word
"""
_ADJECTIVES = """
pink brown grey gray violet golden silver turquoise cyan magenta beige crimson striped spotted shiny wooden metallic
glowing furry tiny huge giant old young happy sad smiling angry sleeping flying broken transparent ancient modern
steampunk realistic mysterious fluffy rusty wet frozen burning dotted checkered round curved fancy
"""
_ENDINGS = """
in the rain|at night|in a forest|on the moon|by candlelight|in the style of an old master|writing a letter|on a table
riding a horse|under water|with wings|made of glass|wearing a hat|holding a sword|, highly detailed, 4k|at sunset
in watercolour|, oil on canvas|made of wood|in front of a house|next to a river|during a storm|for my sister's birthday
saying "hello"|and nothing makes sense|that looks like my uncle|on fire|inside a bottle|from the eighties
"""
_FREE = """
The sound of silence|Happiness|An argument between two friends about money|What does it feel like to be lost?
Ein roter Stern über einem blauen Kreis|une étoile rouge à gauche d'un cercle|dos círculos verdes y un corazón
две красные звезды|红色的星星|赤い星と青い円|نجمة حمراء|κόκκινο αστέρι|하트와 별|एक लाल तारा|czerwona gwiazda i koło
Cross the street when the light is green|She has a heart of gold|Ring the bell and wait|the square root of two
a black hole seen from a white dwarf|Orange juice, freshly pressed|the blues, played by a small band
a diamond in the rough
Once upon a time there was a king who had three daughters|lorem ipsum dolor sit amet|asdf qwer zxcv|???|1234|.
a photo of a background|the image|a plain grey background|please|nothing|SELECT name FROM stars|<b>star</b>
"""
_ONSETS = "b c d f g h k l m n p r s t v w z br ch cl cr dr fl gr pl pr sh sk sl sn sp str th tr"
_VOWELS = "a e i o u ai ea ee ou oa"
_GLUE = "a the of in on with and to at for is that its by from as it there not"
NOUNS, ADJECTIVES = _NOUNS.split(), _ADJECTIVES.split()
ENDINGS, FREE = (text.strip().replace("\n", "|").split("|") for text in (_ENDINGS, _FREE))
ONSETS, VOWELS, GLUE = _ONSETS.split(), _VOWELS.split(), _GLUE.split()
CODAS = ["", "", "", "n", "r", "l", "s", "t", "m", "ck", "nd", "st", "ng", "x"]
SCRIPTS = ((0x3B1, 0x3C9), (0x430, 0x44F), (0x5D0, 0x5EA), (0x627, 0x64A), (0x3041, 0x3096), (0x4E00, 0x9FFF))
_T = TypeVar("_T")
_SHAPE = re.compile("|".join([rf"\b{re.escape(class_plural(s))}\b|\b{s}\b" for s in SHAPES]))
_COLOR = re.compile("|".join(rf"\b{color}\b" for color in COLORS))


def _pick(rng: np.random.Generator, choices: list[_T] | tuple[_T, ...]) -> _T:
    return choices[int(rng.integers(len(choices)))]


def made_word(rng: np.random.Generator) -> str:
    """Of one to three syllables, or of letters of another script."""
    if rng.random() < 0.12:
        first, last = _pick(rng, SCRIPTS)
        return "".join(chr(rng.integers(first, last + 1)) for _ in range(rng.integers(1, 6)))
    syllables = [
        f"{_pick(rng, ONSETS)}{_pick(rng, VOWELS)}{_pick(rng, CODAS)}"
        for _ in range(1 + rng.choice(3, p=[0.3, 0.5, 0.2]))
    ]
    return "".join(syllables)


def unknown_noun(rng: np.random.Generator) -> str:
    """An English one, or one that is made."""
    return _pick(rng, NOUNS) if rng.random() < 0.5 else made_word(rng)


def unknown_adjective(rng: np.random.Generator) -> str:
    """A colour or another property that no shape of the world has."""
    return _pick(rng, ADJECTIVES) if rng.random() < 0.6 else made_word(rng)


def spoil(rng: np.random.Generator, text: str) -> str:
    """A prompt of the micro world in which something stands that the world does not know: a noun, a colour, a property,
    or an end."""
    kind = rng.choice(4, p=[0.4, 0.2, 0.2, 0.2])
    names, colors = list(_SHAPE.finditer(text)), list(_COLOR.finditer(text))
    if kind == 0 and names:
        chosen = _pick(rng, names)
        if rng.random() < 0.4:  # all of them
            return _SHAPE.sub(lambda found: _as(unknown_noun(rng), found.group()), text)
        return f"{text[: chosen.start()]}{_as(unknown_noun(rng), chosen.group())}{text[chosen.end() :]}"
    if kind == 1 and colors:
        chosen = _pick(rng, colors)
        return f"{text[: chosen.start()]}{unknown_adjective(rng)}{text[chosen.end() :]}"
    if kind == 2 and names:
        chosen = _pick(rng, names)
        return f"{text[: chosen.start()]}{unknown_adjective(rng)} {text[chosen.start() :]}"
    body, stop = text.rstrip("."), text[len(text.rstrip(".")) :]
    if rng.random() < 0.5:
        return f"{body} {_pick(rng, ENDINGS)}{stop}".replace(" ,", ",")
    word = unknown_noun(rng)
    joint = _pick(rng, ["and a", "and two", "with a", "on a", "in the", "near the", "of", "made by", "without"])
    return f"{body} {joint} {word}{stop}"


def _as(noun: str, like: str) -> str:
    return noun if like in SHAPES else f"{noun}s"


def unknown_prompt(rng: np.random.Generator) -> str:
    """A prompt of no world of ours: a sentence of made words, or one of `FREE`."""
    if rng.random() < 0.25:
        text = _pick(rng, FREE)
        return text.lower() if rng.random() < 0.3 else text
    words = []
    for _ in range(rng.integers(1, 22)):
        draw = rng.random()
        if draw < 0.35:
            words.append(_pick(rng, GLUE))
        elif draw < 0.7:
            words.append(unknown_noun(rng))
        elif draw < 0.93:
            words.append(unknown_adjective(rng))
        else:
            words.append(_pick(rng, [*SHAPES, *COLORS]))
    text = " ".join([*words, unknown_noun(rng)])
    if rng.random() < 0.3:
        text = f"a photo of a {text}"
    return text[:1].upper() + text[1:] + "." if rng.random() < 0.4 else text
