import threading

import numpy as np
import pytest

from inference.generator import GeneratorConfig
from microworld.family import micro_flux
from pipelines.stages.generate_candidates import GenerateCandidates, GenerateCandidatesConfig
from schemas.errors import InputError
from schemas.images import decode_image, encode_png
from schemas.records import PromptRecord, PromptRow


def test_an_image_is_encoded_while_the_next_is_drawn_and_keeps_its_place(monkeypatch):
    encoded = threading.Semaphore(0)

    class InTurn:
        """Draws the next image when the one before it is encoded."""

        def generate(self, prompts, seeds, sizes=None):
            return list(self.draw(prompts, seeds))

        def warm_up(self, sizes=()):
            """Nothing to compile."""

        def draw(self, prompts, seeds, sizes=None):
            for number, seed in enumerate(seeds):
                if number:
                    assert encoded.acquire(timeout=60), "the image before waits for the whole call"
                yield np.full((4, 4, 3), seed % 251, np.uint8)

    def encode(image: np.ndarray) -> bytes:
        png = encode_png(image)
        encoded.release()
        return png

    monkeypatch.setattr("pipelines.stages.candidate_images.encode_png", encode)
    stage = GenerateCandidates(GenerateCandidatesConfig(candidates_per_prompt=3), seed=7)
    stage.generator = InTurn()
    rows = [PromptRow(PromptRecord(f"p{n}", f"prompt {n}", "rule", "colors", ())) for n in range(2)]
    done = stage(rows)
    assert [row.prompt.prompt_id for row in done] == ["p0", "p1"]
    for row in done:
        assert [candidate.index for candidate in row.candidates] == [0, 1, 2]
        assert row.cost.generations == 3
        for candidate in row.candidates:
            assert candidate.text == row.prompt.text
            assert (decode_image(candidate.image or b"") == candidate.seed % 251).all()


class OfItsSize:
    """Black images of the sizes that are asked for."""

    def draw(self, prompts, seeds, sizes):
        assert len(sizes) == len(prompts)
        return iter([np.zeros((size.height, size.width, 3), np.uint8) for size in sizes])


def test_all_candidates_of_a_prompt_have_one_size_whatever_else_is_in_the_unit():
    generator = GeneratorConfig("flux", micro_flux(), sizes=("32x32", "40x24", "24x40"))
    stage = GenerateCandidates(GenerateCandidatesConfig(candidates_per_prompt=4, generator=generator), seed=7)
    stage.generator = OfItsSize()
    rows = [PromptRow(PromptRecord(f"p{n}", f"prompt {n}", "length"), condensed="short") for n in range(24)]
    done = stage(rows)
    sizes = {row.prompt.prompt_id: {(c.width_px, c.height_px) for c in row.candidates} for row in done}
    assert all(len(of_prompt) == 1 for of_prompt in sizes.values())
    assert set.union(*sizes.values()) == {(32, 32), (40, 24), (24, 40)}
    assert [row.candidates for row in stage(rows[5:7])] == [row.candidates for row in done[5:7]]
    assert {decode_image(row.candidates[0].image or b"").shape[1::-1] for row in done} == set.union(*sizes.values())


def test_a_size_that_the_model_cannot_draw_is_refused_before_it_is_loaded():
    with pytest.raises(InputError, match=r"36x24 px[^\n]*\n  field: generator\.sizes\n.*32x24 or 40x24"):
        GeneratorConfig("flux", micro_flux(), sizes=("40x24", "36x24")).check_sizes()
    with pytest.raises(InputError, match=r"multiples of 16\n.*\n.*992x1024 or 1008x1024"):
        GeneratorConfig(sizes=("1000x1024",)).check_sizes()  # FLUX.1-dev, which need not be here
    GeneratorConfig("flux", micro_flux(), sizes=("40x24", "24x40")).check_sizes()
    GeneratorConfig().check_sizes()
