"""GenEval's sentences: "a photo of three geese", "a photo of an apple left of a red car"."""

from pipelines.prompts.vocabulary import PAIR_ARTICLE, ObjectClass

# As far as `Vocabulary.max_count` goes.
_TO_EIGHT = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")
_NUMBER_WORDS = (*_TO_EIGHT, "nine", "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen")


def noun_phrase(cls: ObjectClass, count: int = 1, color: str | None = None) -> str:
    """What a prompt calls so many objects: a circle, an orange car, a pair of red scissors, two red circles.

    Classes that come in pairs have no counted form: ValueError.
    """
    if count > 1:
        if cls.article == PAIR_ARTICLE:
            raise ValueError(f"{cls.name} come in pairs and are not counted")
        words = [_NUMBER_WORDS[count], color, cls.plural]
    else:
        # The article belongs to the word after it: "an hourglass", but "a red hourglass".
        own = cls.article if color is None or cls.article == PAIR_ARTICLE else None
        article = own or ("an" if (color or cls.name)[0] in "aeiou" else "a")
        words = [article, color, cls.name]
    return " ".join(word for word in words if word)


def photo_of(phrase: str) -> str:
    """The frame of every GenEval prompt."""
    return f"a photo of {phrase}"
