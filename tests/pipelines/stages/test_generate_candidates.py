import threading

import numpy as np

from pipelines.stages.generate_candidates import GenerateCandidates, GenerateCandidatesConfig
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
