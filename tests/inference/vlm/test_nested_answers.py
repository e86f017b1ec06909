"""An answer of nothing but brackets is no answer, wherever answers are read as JSON."""

from typing import Any

import pytest

from inference.dual.questions import read_questions
from inference.interfaces import ChatAnswer
from inference.reflection_text import is_empty, nothing_to_correct
from inference.vlm.prompted_verifier import read_judgements
from pipelines.prompts.edit_files import instruction_of
from pipelines.stages.write_reflections import read_verdict
from schemas.foreign_json import BadValue

BRACKETS = "[" * 100_000 + "]" * 100_000
OBJECTS = '{"a":' * 100_000 + "1" + "}" * 100_000


@pytest.mark.parametrize("text", [BRACKETS, OBJECTS], ids=["brackets", "objects"])
def test_deep_nesting_is_read_as_no_answer(text):
    answer = ChatAnswer(text, True, 1, 1)
    criteria: Any = ("count_accuracy",)
    assert read_verdict(text) is None
    assert read_questions(text) is None
    assert read_judgements(answer, criteria, 1) == [(0.0, "")]
    assert read_judgements(answer, criteria, 2) is None
    assert is_empty(text)
    assert not nothing_to_correct(text)


def test_a_cell_of_brackets_names_its_field():
    with pytest.raises(BadValue, match="no list"):
        instruction_of(BRACKETS)
