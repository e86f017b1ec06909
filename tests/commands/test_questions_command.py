"""`python -m inference questions`: the file it writes is one that the trainer reads; a model is asked once."""

import json

import pytest

from commands.main import main
from tests.support.chat_server import chat_server, says, text_of
from trainers.concept_file import read_concept


def test_a_template_file_reads_as_a_concept(tmp_path, capsys):
    path = tmp_path / "concepts" / "position.yaml"
    assert main(["questions", "a photo of a star left of a ring", "--out", str(path)]) == 0
    concept = read_concept(path)
    assert concept.name == "a-star-left-of-a-ring"
    assert concept.prompt == "a photo of a star left of a ring"
    assert [q.question for q in concept.questions][-1] == "Is the star left of the ring?"
    assert main(["questions", " "]) == 2
    assert "the prompt is empty" in capsys.readouterr().err


def test_a_models_questions_are_kept(tmp_path):
    said = json.dumps({"questions": [{"question": 'Is the "pen" bent?', "answer": "Yes: it is."}]})
    with chat_server(lambda payload, number: says(said)) as server:
        flags = ["--written", "--vlm.model", "", "--vlm.endpoint-model", "m", "--vlm.base-url", server.base_url]
        for name in ("a", "b"):
            out = tmp_path / f"{name}.yaml"
            kept = ["--answers", str(tmp_path / "kept"), "--out", str(out), "--name", name]
            assert main(["questions", "a pen in water", *flags, *kept]) == 0
            (asked,) = read_concept(out).questions
            assert (asked.question, asked.answer) == ('Is the "pen" bent?', "Yes: it is.")
        assert len(server.payloads) == 1


def asked_in(path):
    return [(q.question, q.answer) for q in read_concept(path).questions]


def test_parts_are_asked_for_unless_they_are_not_wanted(tmp_path, capsys):
    parts, plain = tmp_path / "parts.yaml", tmp_path / "plain.yaml"
    assert main(["questions", "a photo of a green heart", "--out", str(parts)]) == 0
    assert main(["questions", "a photo of a green heart", "--no-parts", "--out", str(plain)]) == 0
    assert asked_in(parts) == [("Is there a heart?", "Yes"), ("Is there a green heart?", "Yes")]
    assert asked_in(plain) == [("Is there a green heart?", "Yes")]
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    "prompt", ["a light bulb without electricity", "a cake that has been eaten", "日の出", "no cat"]
)
def test_a_prompt_whose_meaning_is_implied_is_asked_as_a_whole_and_that_is_said(prompt, tmp_path, capsys):
    path = tmp_path / "implied.yaml"
    assert main(["questions", prompt, "--out", str(path)]) == 0
    assert asked_in(path) == [(f"Does the image show {prompt}?", "Yes")]
    said = capsys.readouterr().err
    assert f"repeats the words of '{prompt}'" in said
    assert all(flag in said for flag in ("--description", "--implied", "--written"))


def test_a_description_says_what_is_implied(tmp_path, capsys):
    path = tmp_path / "dark.yaml"
    told = ["--description", "There is a light bulb. The light bulb is not lit.", "--out", str(path)]
    assert main(["questions", "a light bulb without electricity", *told]) == 0
    assert asked_in(path) == [
        ("Is there a light bulb?", "Yes"),
        ("Is the light bulb lit?", "No"),
        ("Does the image show a light bulb without electricity?", "Yes"),
    ]
    assert not capsys.readouterr().err
    assert main(["questions", "a light bulb", "--implied", *told]) == 2
    assert "--implied" in capsys.readouterr().err


def test_a_vlm_says_what_is_implied_in_words_and_is_asked_once(tmp_path):
    own = tmp_path / "own.txt"
    own.write_text("Tell me about {prompt}, please.")
    stated = "There is a light bulb\nThe light bulb is dark"

    def answer(payload, number):
        if "Tell me about a light bulb without electricity, please." in text_of(payload):
            return says("Could you say more?" if payload["seed"] == 0 else stated)
        assert "there is a light bulb" in text_of(payload).lower()
        assert "step by step" in text_of(payload)
        return says(json.dumps({"questions": [{"question": f"{i}?", "answer": "Yes"} for i in range(9)]}))

    with chat_server(answer) as server:
        flags = ["--vlm.model", "", "--vlm.endpoint-model", "m", "--vlm.base-url", server.base_url]
        flags += ["--words.implied", str(own), "--answers", str(tmp_path / "kept"), "--implied"]
        for name in ("a", "b"):
            out = ["--out", str(tmp_path / f"{name}.yaml"), "--name", name]
            assert main(["questions", "A light bulb without electricity.", *flags, *out]) == 0
            assert asked_in(tmp_path / f"{name}.yaml") == [
                ("Is there a light bulb?", "Yes"),
                ("Is the light bulb dark?", "Yes"),
                ("Does the image show a light bulb without electricity?", "Yes"),
            ]
        assert "# as the VLM says: There is a light bulb." in (tmp_path / "a.yaml").read_text()
        assert len(server.payloads) == 2  # the first answer asked back
        out = tmp_path / "written.yaml"
        assert main(["questions", "A light bulb without electricity.", *flags, "--written", "--out", str(out)]) == 0
        assert asked_in(out) == [(f"{i}?", "Yes") for i in range(8)]
        assert len(server.payloads) == 3


@pytest.mark.slow
def test_the_micro_vlm_says_what_its_words_mean_and_refuses_others_before_it_is_loaded(tmp_path, capsys):
    path = tmp_path / "clover.yaml"
    kept = ["--implied", "--answers", str(tmp_path / "kept")]
    assert main(["questions", "a photo of a clover", *kept, "--out", str(path)]) == 0
    assert [question for question, _ in asked_in(path)] == [
        "Is there a heart?",
        "Is there a green heart?",
        "Does the image show a clover?",
    ]
    assert main(["questions", "a light bulb without electricity", *kept]) == 2
    said = capsys.readouterr().err
    assert "'a light bulb without electricity' is none of them" in said
    assert "--vlm.endpoint-model" in said


def test_a_file_that_no_trainer_would_read_is_not_written(tmp_path, capsys):
    out = ["--out", str(tmp_path / "x.yaml")]
    assert main(["questions", "a star", "--name", "my star", *out]) == 2
    assert main(["questions", "star " * 500, *out]) == 2
    assert "--name" in (said := capsys.readouterr().err)
    assert "at most 2000" in said
    assert main(["questions", "日の出", *out]) == 0
    assert read_concept(tmp_path / "x.yaml").name.startswith("concept-")
