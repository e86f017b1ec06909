"""One search from the command line: every round is told, and the pictures hold every image."""

import json

import numpy as np
from PIL import Image

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
    assert page.count('right chosen"') == 1
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


HOSTILE = '<image> "star" = there(1)\n🌟 second line'


def test_several_prompts_make_one_page_and_a_folder_each(tmp_path, capsys):
    file = tmp_path / "more.txt"
    file.write_text("a photo of two red circles\nDraw a star: it is there!\n")
    out = tmp_path / "all"
    prompts = ["a photo of a star", HOSTILE, "a photo of a star"]
    arguments = ["--prompts", str(file), "--out", str(out), "--search.width", "2", "--search.depth", "2"]
    assert main(["reflect", *prompts, *arguments, "--together", "3", *QUICK]) == 0
    said = capsys.readouterr().out
    assert "1 of 5 prompts are there already" in said
    assert said.count("  image ") == 4 * 4
    assert "to go" in said
    folders = sorted(path.name for path in out.iterdir() if path.is_dir())
    assert folders == [
        "1-a-photo-of-a-star",
        "2-image-star-there-1-second-line",
        "3-a-photo-of-two-red-circles",
        "4-draw-a-star-it-is-there",
    ]
    assert all(
        sorted(p.name for p in (out / name).iterdir()) == ["best.png", "filmstrip.png", "made_by.json"]
        for name in folders
    )
    page = (out / "index.html").read_text()
    assert page.count("data-item>") == 4
    assert "<image>" not in page
    assert page.count("<figure") == 4 * 4 + 4  # the answer twice
    assert all(f'href="{name}/best.png"' in page for name in folders)
    made_by = [json.loads((out / name / "made_by.json").read_text()) for name in folders]
    assert [one["prompt"] for one in made_by] == [
        prompts[0],
        HOSTILE,
        "a photo of two red circles",
        "Draw a star: it is there!",
    ]
    assert all(len(one["images"]) == 4 and one["images"][one["best"]] for one in made_by)
    text = Image.open(out / folders[0] / "best.png").text  # pyright: ignore[reportAttributeAccessIssue]
    assert text["noise_seed"] == str(made_by[0]["images"][made_by[0]["best"]]["seed"])
    # A prompt's images are those that it has alone.
    alone = tmp_path / "alone"
    assert main(["reflect", "a photo of two red circles", "--out", str(alone), *arguments[4:], *QUICK]) == 0
    by_itself, among_others = (decode_image((folder / "best.png").read_bytes()) for folder in (alone, out / folders[2]))
    assert np.array_equal(by_itself, among_others)
    before = (alone / "index.html").read_bytes()
    assert main(["reflect", "a photo of a star", "--out", str(alone), *arguments[4:], *QUICK]) == 2
    assert "nothing is written over" in capsys.readouterr().err
    assert (alone / "index.html").read_bytes() == before


def test_a_page_is_there_after_each_group_of_prompts(tmp_path, monkeypatch):
    import commands.reflect as reflect

    out, rounds = tmp_path / "some", reflect._round

    def two_groups(searches, number, search, tools, start, *rest):
        if start == 2:
            raise KeyboardInterrupt
        rounds(searches, number, search, tools, start, *rest)

    monkeypatch.setattr(reflect, "_round", two_groups)
    arguments = ["a star", "a ring", "a cross", "--out", str(out), "--together", "1", *QUICK]
    assert main(["reflect", *arguments, "--search.width", "1", "--search.depth", "1"]) == 130
    page = (out / "index.html").read_text()
    assert page.count("data-item>") == 2
    assert "1 are still to come" in page


def test_prompts_that_cannot_be_are_said_before_a_model_is_loaded(tmp_path, capsys):
    out = ["--out", str(tmp_path / "no")]
    assert main(["reflect", *out, *QUICK]) == 2
    assert "no prompt" in capsys.readouterr().err
    assert main(["reflect", "--prompts", str(tmp_path / "none.txt"), *out, *QUICK]) == 2
    assert "none.txt" in capsys.readouterr().err
    assert main(["reflect", "a", "b", "--together", "0", *out, *QUICK]) == 2
    assert "--together" in capsys.readouterr().err
    assert main(["reflect", "A star beside its ring", *out, *QUICK, "--tools.verifier.kinds", "rules"]) == 2
    assert "'A star beside its ring'" in capsys.readouterr().err
    assert main(["reflect", "A star beside its ring", *out, "--requirements.kind", "none"]) == 2
    assert "--requirements.kind vlm" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
