"""A verifier that checks every requirement of a prompt, by chance: what an image is said to meet depends on its pixels
alone. Real searches run with it, and with a critic that is as quick, in the place of their own."""

import pytest

from inference.critic import CriticConfig
from inference.interfaces import Opinion
from inference.prompt_grammar import record_of
from inference.requirements.atoms import atoms_of, log_odds_of_all
from inference.verifier import VerifierConfig, scores_of
from schemas.configuration import stable_seed
from schemas.images import sha256
from schemas.records import AtomValue, Cost
from tests.support.scripted_search import Says


class InventedAtoms:
    """Six in ten hold."""

    def score(self, images, prompts):
        return scores_of(self.verify(images, prompts))

    def verify(self, images, prompts):
        return self.verify_records(images, [record_of(prompt) for prompt in prompts])

    def verify_records(self, images, prompts):
        return [self._opinion(image, record) for image, record in zip(images, prompts, strict=True)]

    def _opinion(self, image, record):
        def value(number):
            by_chance = stable_seed(sha256(image.tobytes()), number) / 2**63
            return 0.9 + by_chance / 10 if by_chance < 0.6 else by_chance / 10

        atoms = tuple(
            AtomValue(
                atom.kind, atom.text, value(i), None if value(i) > 0.5 else f"See to it that there is {atom.text}."
            )
            for i, atom in enumerate(atoms_of(record))
        )
        return Opinion(log_odds_of_all(atoms), Cost(verifier_calls=1), atoms=atoms)


def in_place_of_verifier_and_critic() -> pytest.MonkeyPatch:
    """Until it is undone."""
    patch = pytest.MonkeyPatch()
    patch.setattr(VerifierConfig, "open", lambda config, journal=None: InventedAtoms())
    patch.setattr(CriticConfig, "open", lambda config, journal=None: Says())
    return patch
