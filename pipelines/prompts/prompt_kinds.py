"""The kinds of prompts that rules compose: each a numbered space of GenEval-style requirements and their wording."""

from collections.abc import Callable
from dataclasses import dataclass

from pipelines.prompts.vocabulary import PAIR_ARTICLE, ObjectClass, Vocabulary
from pipelines.prompts.wording import noun_phrase
from schemas.records import ObjectClause, Tag


@dataclass(frozen=True)
class ComposedPhrase:
    """A prompt without its number; `phrase` is what "a photo of" is put before."""

    tag: Tag
    phrase: str
    include: tuple[ObjectClause, ...]
    exclude: tuple[ObjectClause, ...] = ()


@dataclass(frozen=True)
class Kind:
    """`compose(i)` for i in [0, size) is every prompt of this kind once; None where two classes are hard to tell
    apart."""

    name: str
    size: int
    compose: Callable[[int], ComposedPhrase | None]


def _confusable(first: ObjectClass, second: ObjectClass) -> bool:
    """A detector asked for a car finds the toy car too."""
    return first.name.endswith(second.name) or second.name.endswith(first.name)


def _two_different(index: int, num: int) -> tuple[int, int]:
    """Ordered pairs of different numbers below `num`, by index in [0, num * (num - 1))."""
    first, second = divmod(index, num - 1)
    return first, second + (second >= first)


def prompt_kinds(vocabulary: Vocabulary) -> tuple[Kind, ...]:
    """The kinds of prompts a vocabulary gives, named as the fields of `TagWeights`."""
    classes, colors, relations = vocabulary.classes, vocabulary.colors, vocabulary.relations
    counted = [cls for cls in classes if cls.article != PAIR_ARTICLE]
    colored = [cls for cls in classes if cls.colorable]
    counted_colored = [cls for cls in counted if cls.colorable]
    num_counts = vocabulary.max_count - 1
    num_pairs = len(classes) * (len(classes) - 1)
    num_color_pairs = len(colors) * (len(colors) - 1)
    num_two_colored = len(colored) * (len(colored) - 1) * num_color_pairs

    def single_object(index: int) -> ComposedPhrase:
        cls = classes[index]
        return ComposedPhrase(Tag.SINGLE_OBJECT, noun_phrase(cls), (ObjectClause(cls.name),))

    def two_object(index: int) -> ComposedPhrase | None:
        first, second = (classes[i] for i in _two_different(index, len(classes)))
        if _confusable(first, second):
            return None
        phrase = f"{noun_phrase(first)} and {noun_phrase(second)}"
        return ComposedPhrase(Tag.TWO_OBJECT, phrase, (ObjectClause(first.name), ObjectClause(second.name)))

    def counting(index: int) -> ComposedPhrase:
        number, count = divmod(index, num_counts)
        cls, count = counted[number], count + 2
        include, exclude = (ObjectClause(cls.name, count),), (ObjectClause(cls.name, count + 1),)
        return ComposedPhrase(Tag.COUNTING, noun_phrase(cls, count), include, exclude)

    def colors_(index: int) -> ComposedPhrase:
        number, color = divmod(index, len(colors))
        cls, color = colored[number], colors[color]
        return ComposedPhrase(Tag.COLORS, noun_phrase(cls, color=color), (ObjectClause(cls.name, color=color),))

    def position(index: int) -> ComposedPhrase | None:
        pair, number = divmod(index, len(relations))
        first, second = (classes[i] for i in _two_different(pair, len(classes)))
        if _confusable(first, second):
            return None
        phrase = f"{noun_phrase(first)} {relations[number]} {noun_phrase(second)}"
        include = (
            ObjectClause(second.name),
            ObjectClause(first.name, relation=relations[number], relative_to=0),
        )
        return ComposedPhrase(Tag.POSITION, phrase, include)

    def two_colored(index: int) -> tuple[ObjectClass, str, ObjectClass, str] | None:
        pair, color_pair = divmod(index, num_color_pairs)
        first, second = (colored[i] for i in _two_different(pair, len(colored)))
        color, other = (colors[i] for i in _two_different(color_pair, len(colors)))
        return None if _confusable(first, second) else (first, color, second, other)

    def color_attr(index: int) -> ComposedPhrase | None:
        if (objects := two_colored(index)) is None:
            return None
        first, color, second, other = objects
        phrase = f"{noun_phrase(first, color=color)} and {noun_phrase(second, color=other)}"
        include = (ObjectClause(first.name, color=color), ObjectClause(second.name, color=other))
        return ComposedPhrase(Tag.COLOR_ATTR, phrase, include)

    def position_with_color(index: int) -> ComposedPhrase | None:
        index, number = divmod(index, len(relations))
        if (objects := two_colored(index)) is None:
            return None
        first, color, second, other = objects
        phrase = f"{noun_phrase(first, color=color)} {relations[number]} {noun_phrase(second, color=other)}"
        include = (
            ObjectClause(second.name, color=other),
            ObjectClause(first.name, color=color, relation=relations[number], relative_to=0),
        )
        return ComposedPhrase(Tag.POSITION, phrase, include)

    def counting_with_color(index: int) -> ComposedPhrase:
        index, color = divmod(index, len(colors))
        number, count = divmod(index, num_counts)
        cls, count, color = counted_colored[number], count + 2, colors[color]
        include, exclude = (ObjectClause(cls.name, count, color),), (ObjectClause(cls.name, count + 1),)
        return ComposedPhrase(Tag.COUNTING, noun_phrase(cls, count, color), include, exclude)

    return (
        Kind("single_object", len(classes), single_object),
        Kind("two_object", num_pairs, two_object),
        Kind("counting", len(counted) * num_counts, counting),
        Kind("colors", len(colored) * len(colors), colors_),
        Kind("position", num_pairs * len(relations), position),
        Kind("color_attr", num_two_colored, color_attr),
        Kind("counting_with_color", len(counted_colored) * num_counts * len(colors), counting_with_color),
        Kind("position_with_color", num_two_colored * len(relations), position_with_color),
    )
