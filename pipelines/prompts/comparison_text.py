"""Text reduced to what two prompts must share to count as the same: no case, punctuation, articles, plurals.

The result is for comparison only. Stems need not be English ("knives", "knifes" and "knife" all become "knif"): what
counts is that spellings of one word meet and that the reduction of a reduction changes nothing.
"""

import re
import unicodedata

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_WORDS = {word: str(number) for number, word in enumerate(_NUMBERS)} | {
    # "one cat" asks for what "a cat" asks for.
    **dict.fromkeys(("a", "an", "the", "one", "1"), ""),
    "people": "person",
    "men": "man",
    "women": "woman",
    "children": "child",
    "feet": "foot",
    "teeth": "tooth",
    "geese": "goose",
    "mice": "mouse",
    "oxen": "ox",
    "cacti": "cactus",
    "tvs": "tv",
    "grey": "gray",
}
_DOUBLED = re.compile(r"(x|z|ch|sh|o)e$")


def _reduce_word(word: str) -> str:
    """One step of stemming; `comparison_text` repeats it until nothing changes."""
    if word in _WORDS:
        return _WORDS[word]
    if len(word) > 3 and word.endswith("s"):
        return word[:-1]
    if len(word) > 3 and word.endswith("se"):  # vase, vases; bus, buses
        return word[:-1]
    if len(word) > 3 and word.endswith("ie"):  # puppy, puppies
        return word[:-2] + "y"
    if len(word) > 3 and word.endswith(("ve", "fe")):  # knife, knives; shelf, shelves
        return word[:-2] + "f"
    if len(word) > 3:
        return _DOUBLED.sub(r"\1", word)  # boxes, benches, potatoes
    return word


def _fixed_point(word: str) -> str:
    while (reduced := _reduce_word(word)) != word:
        word = reduced
    return word


def _plain(text: str) -> str:
    """Letters and digits in their simplest form, everything else a space."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(
        char if char.isalnum() else "" if unicodedata.combining(char) or char in "'’" else " " for char in decomposed
    )


def comparison_text(text: str) -> str:
    """The words of `text` in order, reduced. Idempotent; empty for text without letters or digits."""
    plain = _plain(text)
    # Case folding and compatibility forms can produce each other's input (a few Greek letters): repeat until stable.
    while (again := _plain(plain)) != plain:
        plain = again
    return " ".join(reduced for word in plain.split() if (reduced := _fixed_point(word)))
