"""The models of a search on numbers in place of images: an image is one pixel, its grey is what matters of it."""

import numpy as np

from inference.interfaces import OneCallAnImage
from inference.search import Remark, SearchTools
from schemas.records import Cost


def image(value):
    return np.full((1, 1, 3), value % 251, np.uint8)


class Draws:
    """An image's grey depends on seed and prompt."""

    def __init__(self):
        self.calls = []

    def generate(self, prompts, seeds, sizes=None):
        self.calls.append((list(prompts), list(seeds)))
        return list(self.draw(prompts, seeds))

    def draw(self, prompts, seeds, sizes=None):
        return (image(seed + len(prompt)) for prompt, seed in zip(prompts, seeds, strict=True))

    def warm_up(self, sizes=()):
        """Nothing to compile."""


class Corrects:
    """One brighter than what it is given, whatever it is told."""

    def __init__(self):
        self.calls = []

    def correct(self, images, prompts, reflections, seeds):
        self.calls.append((list(prompts), list(reflections), [int(i.mean()) for i in images]))
        return [image(int(i.mean()) + 1) for i in images]


class Says:
    """Names the grey, and refines a prompt by an exclamation mark."""

    def __init__(self):
        self.calls, self.explanations = [], []

    def remark(self, images, prompts, current, scores, *, explanations, atoms, records, reflect, refine):
        self.calls.append((list(prompts), list(current), list(scores), reflect, refine))
        self.explanations.append(list(explanations))
        return [
            Remark(f"brighter than {int(i.mean())}", f"{now}!", Cost(vlm_calls=2))
            for i, now in zip(images, current, strict=True)
        ]


class Bright(OneCallAnImage):
    """Scores an image by its grey."""

    def score(self, images, prompts):
        return np.array([i.mean() for i in images], np.float32)


def tools(**changes):
    """All of them; some replaced."""
    made = SearchTools(Draws(), Bright(), Corrects(), Says(), generator_passes=8, corrector_passes=9)
    for name, value in changes.items():
        setattr(made, name, value)
    return made
