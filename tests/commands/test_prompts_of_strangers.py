"""What a stranger types first: words that the shipped models do not know, and prompts without quotes. All of it is
answered before a model is loaded."""

import numpy as np
import pytest

from commands.main import main
from commands.quoted import known_prompt
from microworld.scenes.long_captions import sample_long_caption
from pipelines.prompts.known_prompts import require_known
from pipelines.prompts.worlds import benchmark_prompts
from schemas.errors import InputError
from schemas.images import encode_png

UNKNOWN = {
    "a cozy reading nook": "'cozy', 'reading', 'nook'",
    "drei rote Äpfel": "'drei', 'rote', 'äpfel'",
    "a photo of a bicycle": "'bicycle'",
    "a photo of a pink circle": "'pink'",
    "红色的星星": "'红色的星星'",
    "a circle's edge": '"circle\'s"',
    "one two three four five": "'one two three four five' names none",
    "🌟": "names none",
}


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(encode_png(np.zeros((32, 32, 3), np.uint8)))
    return str(path)


def refused(capsys, *argv):
    assert main([str(one) for one in argv]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(("prompt", "named"), UNKNOWN.items())
def test_words_that_the_micro_models_do_not_know_are_named(prompt, named):
    with pytest.raises(InputError) as caught:
        require_known(prompt, ["runs/own", "micro/flux"])
    assert named in caught.value.problem
    require_known(prompt, ["black-forest-labs/FLUX.1-dev", "runs/own"])


@pytest.mark.parametrize(
    "prompt",
    [
        "Three red circles.",
        "a photo of a star left of a ring!",
        "A red star in the upper left, and two blue hearts: a plain dark grey background",
        "a <white> cross — “alone”",
    ],
)
def test_words_that_they_know_pass_whatever_the_form_and_the_punctuation(prompt):
    require_known(prompt, ["micro/flux"])


def test_every_prompt_of_the_world_itself_passes():
    for name in ("micro-dev", "micro-compositional-dev"):
        make = benchmark_prompts(name)
        assert make is not None
        for record in make()[::7]:
            assert require_known(record.text, ["micro/flux"]) == record.text
    rng = np.random.default_rng(0)
    for text in [sample_long_caption(rng)[0] for _ in range(50)]:
        assert require_known(text, ["micro/flux"]) == text


@pytest.mark.parametrize(
    ("typed", "learnt"),
    [
        ("Three red  circles.", "a photo of three red circles"),
        ("a star left of a ring", "a photo of a star left of a ring"),
        ("A photo of a star", "A photo of a star"),
        ("draw a star", "draw a star"),
    ],
)
def test_what_captions_say_is_asked_as_they_say_it(typed, learnt, capsys):
    assert known_prompt(typed, ["micro/flux"]) == learnt
    assert (repr(learnt) in capsys.readouterr().err) == (typed != learnt)
    assert known_prompt(typed, ["black-forest-labs/FLUX.1-dev"]) == typed


@pytest.mark.parametrize("command", ["generate", "reflect", "score", "check", "judge"])
def test_every_command_refuses_them_and_says_where_to_go(command, image, capsys):
    said = refused(capsys, command, "a cozy star", *([image] if command in ("score", "check", "judge") else []))
    assert "'cozy'" in said
    assert "circle, square, triangle" in said
    assert "--preset flux" in said


@pytest.mark.parametrize(
    "flags",
    [
        ("run", "--prompts"),
        ("run", "--subsets", "general", "--detailed-prompts"),
        ("search", "--judge.kind", "none", "--prompts"),
        ("reflect", "--prompts"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("prompt", ["a photo of a bicycle", "drei rote Äpfel"])
def test_and_those_of_files_with_their_line(flags, prompt, tmp_path, capsys):
    file = tmp_path / "mine.txt"
    file.write_text(f"a photo of a star\n{prompt}\n", encoding="utf-8")
    where = () if flags[0] == "reflect" else ("--run", tmp_path / "run")
    said = refused(capsys, *flags, file, *where)
    assert f"{file}:2" in said
    assert "--preset flux" in said
    assert not (tmp_path / "run").exists()


def test_own_models_may_be_asked_for_anything(tmp_path, capsys):
    own = ("--generator.kind", "diffusers", "--generator.diffusers.model", tmp_path / "gone")
    assert "do not know" not in refused(capsys, "generate", "a cozy reading nook", *own)


UNQUOTED = [
    ("generate", "three", "red", "circles"),
    ("reflect", "three", "red", "circles"),
    ("questions", "three", "red", "circles"),
    ("score", "three", "red", "circles"),
    ("check", "three", "red", "circles"),
    ("judge", "three", "red", "circles"),
    ("reflect", "three", "red", "circles", "--preset", "flux"),
]


@pytest.mark.parametrize("argv", UNQUOTED, ids=" ".join)
def test_a_prompt_without_quotes_is_told_to_be_quoted(argv, image, capsys):
    more = (image,) if argv[0] in ("score", "check", "judge") else ()
    said = refused(capsys, *argv, *more)
    assert "quote it" in said
    assert '"three red circles"' in said


@pytest.mark.parametrize("command", ["score", "check", "judge"])
def test_an_image_that_is_missing_is_still_named(command, capsys):
    assert "gone.png: no such file" in refused(capsys, command, "a photo of two stars", "gone.png")
