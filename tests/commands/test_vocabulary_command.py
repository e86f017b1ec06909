"""`python -m pipelines vocabulary`: the file that a model's words become is one that `run` composes prompts from."""

import json
import re

import pytest

from commands.main import main
from pipelines.prompts.vocabulary import load_vocabulary
from pipelines.run_folder import RunFolder
from tests.support.chat_server import chat_server, fails, says, text_of

NAMES = ["goose", "lamp", "kettle", "violin", "wheelbarrow", "pumpkin"]


def names_things(payload, number):
    """A model of some size: as many new things as it is asked for, one of which it has named before."""
    asked = text_of(payload)
    if "colours that are easiest" in asked:
        return says(json.dumps({"colors": ["red", "blue", "dark.red"]}))
    (wanted,) = map(int, re.findall(r"Name (\d+) kinds", asked))
    known = [name for name in NAMES if re.search(rf"Leave out.*\b{name}\b", asked)]
    named = [*known[:1], *[name for name in NAMES if name not in known][:wanted]]
    return says(json.dumps({"objects": [{"name": name, "plural": f"{name}s", "article": "a"} for name in named]}))


def arguments(server, tmp_path, *more, key_env="NO_SUCH_KEY"):
    address = ["--vlm.model", "", "--vlm.endpoint-model", "wordy", "--vlm.base-url", server.base_url]
    kept = ["--answers", str(tmp_path / "answers"), "--vlm.api-key-env", key_env]
    return ["vocabulary", "--out", str(tmp_path / "words.json"), *address, *kept, *more]


def test_a_run_composes_prompts_from_the_file(tmp_path, capsys):
    sizes = ("--num-objects", "6", "--objects-per-request", "3", "--num-colors", "4")
    with chat_server(names_things) as server:
        assert main(arguments(server, tmp_path, *sizes)) == 0
        printed = capsys.readouterr().out
        once = (tmp_path / "words.json").read_bytes()
        assert main(arguments(server, tmp_path, *sizes)) == 0
        assert len(server.payloads) == 3
    assert (tmp_path / "words.json").read_bytes() == once
    words = load_vocabulary(tmp_path / "words.json")
    assert words.class_names == set(NAMES)
    assert words.colors == ("red", "blue")
    for line in (
        "objects: 3 of 6 after 1 answers",
        "6 classes, 2 colours (red, blue)",
        "from 3 answers of wordy",
        "turned down: 2",
        "objects: goose: named already, as 'goose'",
        "colors: dark.red: 'dark.red' is no usable name",
    ):
        assert line in printed
    run = ["run", "--run", str(tmp_path / "run"), "--num-prompts", "20", "--no-closed-vocabulary"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("commands.run.work", lambda *_: 0)  # prompts are what this is about: no image is drawn
        assert main([*run, "--vocabulary", str(tmp_path / "words.json")]) == 0
    texts = [row.prompt.text for row in RunFolder.open(str(tmp_path / "run")).all_prompts()]
    assert len(set(texts)) == 20
    assert all(any(name in text for name in NAMES) for text in texts)


def test_nothing_usable_is_told_with_the_models_words(tmp_path, capsys):
    with chat_server(lambda *_: says("a red circle")) as server:
        assert main(arguments(server, tmp_path, "--max-attempts", "2")) == 1
    printed = capsys.readouterr()
    assert "wordy gave no usable list of objects, and nothing new in 2 tries" in printed.err
    assert "it said: 'a red circle'" in printed.err
    assert "ask a language model of some size" in printed.err
    assert not (tmp_path / "words.json").exists()


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [(401, 2, "field: NO_SUCH_KEY"), (404, 2, "--vlm.endpoint-model"), (400, 1, "turned the request down")],
)
def test_a_refusal_is_told_in_a_few_lines(tmp_path, capsys, status, code, words):
    with chat_server(lambda *_: fails(status)) as server:
        assert main(arguments(server, tmp_path)) == code
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [(["--num-objects", "1"], "num_objects"), (["--colors", "red"], "colors"), (["--out", "."], "is a folder")],
)
def test_bad_flags_end_with_two_before_anyone_is_asked(tmp_path, capsys, more, words):
    with chat_server(names_things) as server:
        assert main(arguments(server, tmp_path, *more)) == 2
        assert server.payloads == []
    assert words in capsys.readouterr().err


def test_the_micro_model_is_not_even_asked(tmp_path, capsys):
    assert main(["vocabulary", "--out", str(tmp_path / "words.json"), "--vlm.model", "micro/vlm"]) == 2
    printed = capsys.readouterr().err
    assert "micro/vlm knows the words of its own small world alone" in printed
    assert "--vlm.endpoint-model NAME" in printed
