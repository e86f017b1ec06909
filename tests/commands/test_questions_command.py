"""`python -m inference questions`: the file it writes is one that the trainer reads; a model is asked once."""

import json

from commands.main import main
from tests.support.chat_server import chat_server, says
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
