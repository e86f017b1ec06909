"""One search from the command line: every round is told, and the pictures hold every image."""

import numpy as np

from commands.main import main
from schemas.images import decode_image

QUICK = ("--tools.verifier.kinds", "rewards", "--tools.generator.flux.num-steps", "2", "--search.strategy", "noise")


def test_a_search_is_told_and_drawn(tmp_path, capsys):
    out = tmp_path / "star"
    arguments = ["a photo of <a> star", "--out", str(out), "--search.width", "2", "--search.depth", "3"]
    assert main(["reflect", *arguments, *QUICK]) == 0
    said = capsys.readouterr().out
    assert said.count("round ") == 3
    assert said.count("  image ") == 6
    assert "6 generations" in said
    page = (out / "index.html").read_text()
    assert "a photo of &lt;a&gt; star" in page
    assert page.count("<tr") == 7
    strip = decode_image((out / "filmstrip.png").read_bytes(), "strip")
    assert strip.shape == (2 * 166 + 6, 3 * 166 + 6, 3)
    best = decode_image((out / "best.png").read_bytes(), "best")
    shown = [
        strip[6 + 166 * r : 166 + 166 * r : 5, 6 + 166 * c : 166 + 166 * c : 5] for r in range(2) for c in range(3)
    ]
    assert sum(np.array_equal(image, best) for image in shown) == 1


def test_what_is_missing_is_said_at_once(tmp_path, capsys):
    assert main(["reflect", "a photo of a star", "--out", str(tmp_path / "no"), "--tools.corrector.flux.lora", ""]) == 2
    assert "--tools.corrector" in capsys.readouterr().err
    assert main(["reflect", " ", "--out", str(tmp_path / "no"), *QUICK]) == 2
    assert not (tmp_path / "no").exists()


def test_images_that_are_not_square_keep_their_aspect(tmp_path, capsys):
    out = tmp_path / "wide"
    arguments = ["a photo of a star", "--out", str(out), "--search.width", "1", "--search.depth", "2"]
    assert main(["reflect", *arguments, *QUICK, "--tools.generator.sizes", "40x24"]) == 0
    strip, best = (decode_image((out / name).read_bytes(), name) for name in ("filmstrip.png", "best.png"))
    assert best.shape == (24, 40, 3)
    assert strip.shape == (6 + 96 + 6, 2 * 166 + 6, 3)
    shown = [strip[8:102:4, 8 + 166 * column : 166 + 166 * column : 4] for column in range(2)]
    assert sum(np.array_equal(image, best) for image in shown) == 1
    capsys.readouterr()
    assert main(["reflect", *arguments, *QUICK, "--tools.generator.sizes", "wide"]) == 2
    assert "'wide' is no size" in capsys.readouterr().err
