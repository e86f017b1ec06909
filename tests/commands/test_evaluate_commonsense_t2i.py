"""CommonsenseT2I of folders of images, and of images that are drawn for it, by servers on this machine and by a tiny
FLUX with LoRAs: lamps that are lit and lamps that are not."""

import base64
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from commands.main import main
from inference.flux.lora import WEIGHTS
from schemas.images import decode_image, encode_png
from tests.support.chat_server import chat_server, fails, says, text_of
from tests.support.image_server import ImageServer, image_server
from tests.support.processes import wait_until
from tests.support.tiny_models import save_tiny_flux

ROOT = Path(__file__).parents[2]
ROWS = [
    {
        "prompt1": f"a {thing} with electricity",
        "prompt2": f"a {thing} without electricity",
        "description1": f"The {thing} is lit",
        "description2": f"The {thing} is <b>unlit</b>",
        "category": category,
        "likelihood": likelihood,
    }
    for thing, category, likelihood in (("lamp", "Daily Items", 5), ("torch", "Physical Laws", 4))
]
BRIGHT, DARK, GREY, NOISE = 240, 10, 128, 77


def plain(level: int) -> np.ndarray:
    return np.full((16, 16, 3), level, np.uint8)


def is_fitting(text: str, level: float) -> bool:
    """Grey lamps are both."""
    return level > 100 if "is lit" in text else level < 20 or 100 < level < 150


def look(payload, _):
    """A VLM that looks at the brightness."""
    url = next(part["image_url"]["url"] for part in payload["messages"][-1]["content"] if part["type"] == "image_url")
    level = float(decode_image(base64.b64decode(url.partition(",")[2])).mean())
    return says("1" if is_fitting(text_of(payload), level) else "0")


def judged_by(chat, *more: str) -> list[str]:
    flags = ("model", ""), ("endpoint-model", "m"), ("base-url", chat.base_url), ("concurrency", "1"), ("retries", "0")
    return [*(word for name, value in flags for word in (f"--judge.vlm.{name}", value)), *more]


def num_questions(chat) -> int:
    """Different ones."""
    return len({json.dumps(payload, sort_keys=True) for payload in chat.payloads})


def evaluate(data, *arguments) -> int:
    return main([str(one) for one in ("evaluate", "commonsense-t2i", "--data", data, *arguments)])


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps(ROWS, indent=4))
    return path


def fill(folder: Path, levels, name="prompt{side}_img/original/{pair:04d}-{image}.png") -> Path:
    """levels: of each pair, of each prompt, of each image."""
    for pair, sides in enumerate(levels, 1):
        for side, images in enumerate(sides, 1):
            for image, level in enumerate(images, 1):
                path = folder / name.format(pair=pair, side=side, image=image)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(encode_png(plain(level)))
    return folder


def results(out: Path):
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    return lines, json.loads((out / "summary.json").read_text())


FIRST = [[[BRIGHT, BRIGHT], [DARK, BRIGHT]], [[DARK, GREY], [DARK, GREY]]]
SECOND = [[[BRIGHT, BRIGHT], [DARK, DARK]], [[BRIGHT, NOISE], [DARK, DARK]]]


def test_folders_are_judged_by_the_published_rule_and_compared_in_pairs(data, tmp_path, capsys):
    folders = [fill(tmp_path / "one", FIRST), fill(tmp_path / "two", SECOND)]
    with chat_server(look) as chat:
        assert evaluate(data, "--images", *folders, "--out", tmp_path / "out", *judged_by(chat)) == 0
        asked = len(chat.payloads)
        assert asked == num_questions(chat)
        lines, summary = results(tmp_path / "out")
        assert evaluate(data, "--images", *folders, "--out", tmp_path / "out", *judged_by(chat)) == 0
        assert len(chat.payloads) == asked  # what is judged stays judged
    assert results(tmp_path / "out") == (lines, summary)
    one = {(line["pair"], line["side"], line["image"]): line for line in lines if line["row"] == "one"}
    assert [one[1, 1, 1]["supports"], one[1, 2, 1]["supports"], one[1, 2, 2]["supports"]] == [1, 2, 1]
    assert one[2, 1, 2]["by_chance"]
    assert one[2, 1, 2]["supports"] in (1, 2)
    lucky = one[2, 1, 2]["supports"] == 1 and one[2, 2, 2]["supports"] == 2
    assert summary["rows"]["one"]["by_category"]["Daily Items"][0] == 50.0
    assert summary["rows"]["one"]["all"][0] == (50.0 if lucky else 25.0)
    assert summary["rows"]["one"]["by_chance"] == 2
    assert summary["rows"]["two"]["all"][0] == 75.0
    assert summary["rows"]["two"]["by_likelihood"]["4"][0] == 50.0
    assert summary["rows"]["two"]["neither"] == 1
    assert summary["changes"]["two"]["against"] == "one"
    assert summary["changes"]["two"]["by_category"]["Daily Items"][0] == 50.0
    said = capsys.readouterr().out
    assert re.search(r"two - one +\+50\.0 +\+(0|50)\.0 ", said)
    assert "2 pairs, judged by m" in said
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count("<figure") == 16
    assert "<b>unlit</b>" not in page
    assert "fits both, given to" in page


@pytest.mark.parametrize(
    "name",
    [
        "prompt{side}_img/{pair:04d}-{image}.jpg",
        "prompt{side}/{pair}_{image}.png",
        "prompt{side}_img/original/{pair:04d}-{image}.PNG",
    ],
)
def test_other_endings_and_numbers_are_found_and_contact_sheets_passed_over(data, tmp_path, name):
    folder = fill(tmp_path / "images", SECOND, name)
    for side in (1, 2):
        place = next(one for one in (folder / f"prompt{side}_img", folder / f"prompt{side}") if one.is_dir())
        (place / "0001.jpg").write_bytes(encode_png(plain(NOISE)))
    with chat_server(look) as chat:
        assert evaluate(data, "--images", folder, *judged_by(chat)) == 0
    lines, summary = results(folder)
    assert len(lines) == 8
    assert summary["rows"]["images"]["all"][0] == 75.0


def test_one_image_a_prompt_needs_no_number(data, tmp_path):
    folder = fill(tmp_path / "images", [[[BRIGHT], [DARK]], [[BRIGHT], [BRIGHT]]], "prompt{side}_img/{pair:04d}.png")
    with chat_server(look) as chat:
        assert evaluate(data, "--images", folder, *judged_by(chat)) == 0
    assert results(folder)[1]["rows"]["images"]["all"][0] == 50.0


def test_all_that_is_missing_is_named_before_anybody_is_asked_and_left_out_on_demand(data, tmp_path, capsys):
    folder = fill(tmp_path / "images", SECOND)
    (folder / "prompt2_img" / "original" / "0001-2.png").unlink()
    (folder / "prompt1_img" / "original" / "0002-1.png").unlink()
    (folder / "prompt1_img" / "original" / "0002-2.png").unlink()
    (folder / "prompt1_img" / "original" / "0001-1.png").write_bytes(b"\x89PNG no image")
    fill(folder, [[[1]]] * 3)
    (folder / "prompt1_img" / "original" / "0001-1.png").write_bytes(b"\x89PNG no image")
    (folder / "prompt1_img" / "original" / "0002-1.png").unlink()
    with chat_server(look) as chat:
        assert evaluate(data, "--images", folder, *judged_by(chat)) == 2
        said = capsys.readouterr().err
        assert chat.payloads == []
        assert "3 files do not do" in said
        for one in (
            "no image 2, which the other prompt has, of pair 1, prompt 2",
            "no image of pair 2, prompt 1 ('a torch with electricity')",
            "0001-1.png",
            "1 images of no pair",
        ):
            assert one in said
        assert evaluate(data, "--images", folder, "--skip-bad", *judged_by(chat)) == 2  # no whole pair is left
        assert "no pair with both images" in capsys.readouterr().err
        (folder / "prompt2_img" / "original" / "0001-2.png").write_bytes(encode_png(plain(DARK)))
        assert evaluate(data, "--images", folder, "--skip-bad", *judged_by(chat)) == 0
    lines, summary = results(folder)
    assert {(line["pair"], line["image"]) for line in lines} == {(1, 2)}
    assert len(summary["skipped"]) == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--images", "gone"], "no folder of images"),
        (["--images", "."], "holds no images of pairs"),
        (["--images", "one", "one"], "a folder is named twice"),
        (["--images", "one", "--num-images", "2"], "--num-images says nothing beside --images"),
        (["--num-images", "0"], "0 images"),
        (["--expanded", "more.json", "--write-expanded"], "one of them"),
        (["--distilled", "gone"], "no folder"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(data, tmp_path, monkeypatch, capsys, arguments, says):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "one", SECOND)
    assert evaluate(data, "--preset", "micro", *arguments) == 2
    assert says in capsys.readouterr().err


def test_a_judge_that_answers_something_else_is_found_at_the_first_images(data, tmp_path, capsys):
    folder = fill(tmp_path / "images", SECOND)
    with chat_server(lambda *_: says("The image shows a lamp.")) as chat:
        assert evaluate(data, "--images", folder, "--batch-size", "2", *judged_by(chat)) == 1
        assert len(chat.payloads) == 4
    assert "answers neither 1 nor 0, neither yes nor no, but 'The image shows a lamp.'" in capsys.readouterr().err


def paint(prompt, seed, size, image):
    """A generator that lights every lamp, unless it is told in so many words."""
    level = DARK if "dark" in prompt else BRIGHT
    return np.full((size.height, size.width, 3), level, np.uint8) ^ np.uint8(seed % 8)


def drawn_by(server) -> list[str]:
    flags = ("base-url", server.base_url), ("model", "micro-flux"), ("size-px", "16"), ("concurrency", "1")
    return [
        "--generator.kind",
        "images-api",
        *(word for name, value in flags for word in (f"--generator.images-api.{name}", value)),
    ]


def written(payload, number):
    """A VLM that writes what is meant, and refuses one prompt whatever comes."""
    text = text_of(payload)
    if "a torch with electricity" in text:
        return says("I'm sorry, I can't help with that.")
    return says("Here is the prompt: **a dark lamp**" if "without" in text else "a bright lamp")


def test_base_and_expanded_prompts_are_drawn_and_compared(data, tmp_path, capsys):
    out = tmp_path / "out"
    with image_server(ImageServer(paint)) as server, chat_server(look) as chat, chat_server(written) as writer:
        expander = [word.replace("--judge", "--expander") for word in judged_by(writer)]
        flags = ["--out", out, "--num-images", "2", *drawn_by(server), *judged_by(chat)]
        assert evaluate(data, "--write-expanded", *expander, *flags) == 0
        said = capsys.readouterr().err
        assert "1 prompts stay as they are" in said
        told = ("asking m for ", "loading nothing: a server draws\n", "loading nothing: a server judges\n")
        places = [said.index(one) for one in told]  # whoever waits knows what for
        assert places == sorted(places)
        assert len(server.drawn) == 14  # of the prompt that stays as it is the same two
        asked = len(writer.payloads)
        assert asked == 3 + 3
        assert evaluate(data, "--write-expanded", *expander, *flags) == 0
        assert evaluate(data, "--expanded", out / "expanded.jsonl", *flags) == 0
        assert (len(server.drawn), len(writer.payloads)) == (14, asked)
        assert len(chat.payloads) == num_questions(chat)
        lines, summary = results(out)
        assert [summary["rows"][name]["all"][0] for name in ("base", "expanded")] == [0.0, 100.0]
        changed = summary["changes"]["expanded"]
        assert (changed["against"], changed["all"]) == ("base", [100.0] * 3)
        assert {name: found[0] for name, found in changed["by_category"].items()} == {
            "Daily Items": 100.0,
            "Physical Laws": 100.0,
        }
        assert {line["prompt"] for line in lines if line["row"] == "expanded"} == {
            "a bright lamp",
            "a dark lamp",
            "a torch with electricity",
        }
        # The rows differ in the prompt alone: the noise is the same.
        seeds = [asked.payload["seed"] for asked in server.asked]
        assert set(seeds[8:]) < set(seeds[:8])
        assert len(set(seeds[:8])) == 8
        assert evaluate(data, *flags, "--seed", "1") == 2
        assert "another generator, LoRA or seed" in capsys.readouterr().err
        assert evaluate(data, "--images", out / "images" / "expanded", *judged_by(chat)) == 0
    assert results(out / "images" / "expanded")[1]["rows"]["expanded"]["all"][0] == 100.0
    page = (out / "index.html").read_text()
    assert page.count("<figure") == 16
    assert "expanded: <i>a dark lamp</i>" in page


@pytest.mark.slow
def test_after_kill_9_nothing_is_drawn_or_judged_twice(data, tmp_path):
    """Killed while it draws, and again while it judges; what was in flight then is all that may be asked for again."""
    out = tmp_path / "out"
    with image_server(ImageServer(paint)) as server, chat_server(look) as chat:
        flags = ["--out", str(out), *drawn_by(server), *judged_by(chat), "--batch-size", "4"]
        command = [sys.executable, "-m", "pipelines", "evaluate", "commonsense-t2i", "--data", str(data), *flags]

        def killed_once(holds):
            process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
            wait_until(holds)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL

        plain_look, drawn_at, judged_at = chat.answer, threading.Event(), threading.Event()

        def slow_draw(server, asked):
            if len(server.drawn) == 12:
                drawn_at.wait(120)
            return slow(server.draw(asked))

        def slow_look(payload, number):
            if number == 20:
                judged_at.wait(120)
            return slow(plain_look(payload, number))

        server.mode = slow_draw
        killed_once(lambda: len(list(out.glob("images/base/*/*/*.png"))) >= 5)
        drawn_at.set()
        server.mode = None
        chat.answer = slow_look
        killed_once(lambda: (out / "verdicts.jsonl").exists() and (out / "verdicts.jsonl").read_text().count("\n") > 4)
        judged_at.set()
        chat.answer = plain_look
        assert main(command[3:]) == 0
        assert 16 <= len(server.drawn) <= 17
        assert len({digest for digest, _ in server.drawn}) == 16
        assert len(chat.payloads) <= num_questions(chat) + 1
    lines, summary = results(out)
    assert len(lines) == 16
    assert summary["rows"]["base"]["all"][0] == 0.0


def slow(reply):
    reply.seconds = 0.15
    return reply


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny_flux(tmp_path_factory.mktemp("tiny") / "flux")


def write_lora(folder: Path, card: dict | None = None, scale: float = 5.0) -> Path:
    """A LoRA that moves the tiny FLUX's images, and the card that `distill` writes beside one."""
    import torch

    torch.manual_seed(len(folder.name))
    folder.mkdir(parents=True)
    layer = "transformer.x_embedder"
    tensors = {f"{layer}.lora_A.weight": torch.ones(2, 16), f"{layer}.lora_B.weight": scale * torch.randn(32, 2)}
    save_file(tensors, folder / WEIGHTS)
    if card is not None:
        (folder / "card.json").write_text(json.dumps(card))
    return folder


def drawn_by_tiny(tiny: Path) -> list[str]:
    flux = {"model": tiny, "num-steps": 1, "size-px": 16, "text-lengths": 16, "batch-size": 2}
    flags = [word for name, value in flux.items() for word in (f"--generator.flux.{name}", str(value))]
    return ["--preset", "micro", *flags, "--judge.kind", "clip", "--num-images", "1"]


def test_a_distilled_generator_is_drawn_with_the_lora_of_each_prompt(data, tmp_path, tiny, capsys):
    prompts = [row[name] for row in ROWS for name in ("prompt1", "prompt2")]
    concepts, out = tmp_path / "concepts", tmp_path / "out"
    for number, prompt in enumerate(prompts[:2]):
        write_lora(concepts / f"{'x' * number}concept", {"prompt": f" {prompt}"})
    flags = ["--out", out, "--distilled", concepts, *drawn_by_tiny(tiny)]
    assert evaluate(data, *flags) == 2
    said = capsys.readouterr().err
    assert "2 prompts have no finished concept" in said
    assert all(prompt in said for prompt in prompts[2:])
    assert not (out / "images").exists()
    for number, prompt in enumerate(prompts[2:], 2):
        write_lora(concepts / f"{'x' * number}concept", {"prompt": prompt}, scale=0.0)
    rows = [dict(zip(("expanded1", "expanded2"), (f"more of {row['prompt1']}", "b"), strict=True)) for row in ROWS]
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert evaluate(data, *flags, "--expanded", tmp_path / "more.jsonl") == 0
    lines, summary = results(out)
    assert list(summary["rows"]) == ["base", "base+distilled", "expanded", "expanded+distilled"]
    assert {name: row["against"] for name, row in summary["changes"].items()} == {
        "base+distilled": "base",
        "expanded": "base",
        "expanded+distilled": "expanded",
    }
    assert summary["judge"] == "micro/rewards/clip"
    assert len(lines) == 16

    def image(row: str, side: int, pair: int) -> bytes:
        return (out / "images" / row / f"prompt{side}_img" / "original" / f"{pair:04d}-1.png").read_bytes()

    for kind in ("base", "expanded"):
        for side in (1, 2):
            assert image(kind, side, 1) != image(f"{kind}+distilled", side, 1)  # by the base prompt's LoRA
            assert image(kind, side, 2) == image(f"{kind}+distilled", side, 2)  # whose LoRA is nothing
    assert image("base", 1, 1) != image("expanded", 1, 1)


def test_one_lora_may_be_for_all_prompts_and_a_generator_that_takes_none_is_refused(data, tmp_path, tiny, capsys):
    lora = write_lora(tmp_path / "lora")
    assert evaluate(data, "--out", tmp_path / "out", "--distilled", lora, *drawn_by_tiny(tiny)) == 0
    assert list(results(tmp_path / "out")[1]["rows"]) == ["base", "base+distilled"]
    capsys.readouterr()
    with image_server(ImageServer(paint)) as server, chat_server(look) as chat:
        flags = ["--out", tmp_path / "other", "--distilled", lora, *drawn_by(server), *judged_by(chat)]
        assert evaluate(data, *flags) == 2
        assert "takes no LoRA" in capsys.readouterr().err
        flags = ["--out", tmp_path / "other", "--distilled", lora, *drawn_by_tiny(tiny), "--generator.flux.lora", lora]
        assert evaluate(data, *flags) == 2
        assert "has a LoRA already" in capsys.readouterr().err
        assert server.drawn == []


def test_a_judge_that_is_away_is_told_and_what_it_said_is_kept(data, tmp_path, capsys):
    folder = fill(tmp_path / "images", SECOND)
    with chat_server(look) as chat:

        def goes_away(payload, number):
            chat.lives = number < 6
            return look(payload, number) if chat.lives else fails(500)

        chat.answer = goes_away
        assert evaluate(data, "--images", folder, "--batch-size", "2", *judged_by(chat)) == 1
        assert "run the same command later" in capsys.readouterr().err
        before = len(chat.payloads)
        chat.answer, chat.lives = look, True
        assert evaluate(data, "--images", folder, "--batch-size", "2", *judged_by(chat)) == 0
        assert not any(payload in chat.payloads[:6] for payload in chat.payloads[before:])
