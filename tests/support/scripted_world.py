"""A world whose rates of success are known, and whose verifier checks every requirement: an image's grey says how many
of its prompt's atoms fail, from the first on. The prompt's first word is what its images fail, when they fail."""

import numpy as np

from inference.interfaces import Opinion
from inference.requirements.atoms import log_odds_of_all
from inference.search import SearchTools
from schemas.configuration import stable_seed
from schemas.records import AtomValue, Cost
from tests.support.scripted_search import Draws, Says

ATOMS = {
    "move": ("relation", "object", "object"),
    "recolour": ("color", "object"),
    "recount": ("count",),
    "several": ("color", "relation", "count", "object", "object"),
}
FAILED = {"move": 1, "recolour": 1, "recount": 1, "several": 3}
RATES = {"move": (0.81, 0.21), "recolour": (0.66, 0.18), "recount": (0.54, 0.64), "several": (0.13, 0.18)}
"""How often an image is right after a correction, and when it is drawn afresh (docs/training.md: as measured)."""
SIDE_PX = 8


def _image(number_failed):
    return np.full((SIDE_PX, SIDE_PX, 3), 80 * number_failed, np.uint8)


def kind_of(prompt):
    return prompt.split()[0]


def _lucky(rate, *key):
    return stable_seed("lucky", *key) / 2**63 < rate


class WorldDraws(Draws):
    """Right as often as a fresh drawing is."""

    def draw(self, prompts, seeds, sizes=None):
        for prompt, seed in zip(prompts, seeds, strict=True):
            kind = kind_of(prompt)
            yield _image(0 if _lucky(RATES[kind][1], seed) else FAILED[kind])


class WorldCorrects:
    """Right as often as a correction is, else as it was."""

    def __init__(self):
        self.calls = []

    def correct(self, images, prompts, reflections, seeds):
        self.calls += [kind_of(prompt) for prompt in prompts]
        return [
            _image(0) if _lucky(RATES[kind_of(prompt)][0], seed) else image
            for image, prompt, seed in zip(images, prompts, seeds, strict=True)
        ]


class ChecksAtoms:
    """Sure of everything. unsure: of the whole image, where every atom holds."""

    def __init__(self, unsure=False):
        self.unsure = unsure

    def score(self, images, prompts):
        return np.array([opinion.score for opinion in self.verify(images, prompts)], np.float32)

    def verify(self, images, prompts):
        return [self._opinion(image, kind_of(prompt)) for image, prompt in zip(images, prompts, strict=True)]

    def _opinion(self, image, kind):
        failed = round(float(image.mean()) / 80)
        atoms = tuple(
            AtomValue(name, f"{name} {i}", 0.1 if i < failed else 0.97, f"Mend {name} {i}." if i < failed else None)
            for i, name in enumerate(ATOMS[kind])
        )
        return Opinion(log_odds_of_all(atoms) - 20 * self.unsure, Cost(verifier_calls=1), atoms=atoms)


def world(**changes):
    """Its tools; some replaced."""
    made = SearchTools(WorldDraws(), ChecksAtoms(), WorldCorrects(), Says(), generator_passes=8, corrector_passes=9)
    for name, value in changes.items():
        setattr(made, name, value)
    return made
