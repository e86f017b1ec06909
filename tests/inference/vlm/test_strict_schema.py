"""Every JSON Schema that this code asks answers in is one that OpenAI's strict mode takes."""

import ast
import json
from pathlib import Path

import pytest

from inference.dual import questions
from inference.interfaces import ChatRequest
from inference.requirements import read_answer
from inference.vlm.criteria import ANY_PROMPT, CRITERIA
from inference.vlm.endpoint import EndpointConfig, EndpointVlm
from inference.vlm.prompted_verifier import answer_schema
from inference.vlm.strict_schema import strict_schema
from pipelines.prompts import brainstorm
from pipelines.prompts.brainstorm import BrainstormConfig
from pipelines.stages import write_reflections
from tests.support.openai_server import KEY, openai_server, strict_problems

ROOT = Path(__file__).parents[3]
SCHEMAS = {
    "inference/dual/questions.py": [
        questions.answer_schema(most) for most in (questions.MAX_QUESTIONS, questions.MAX_PARTS)
    ],
    "inference/requirements/reader.py": [read_answer.answer_schema()],
    "inference/vlm/prompted_verifier.py": [answer_schema(names) for names in (*CRITERIA.values(), ANY_PROMPT)],
    "pipelines/prompts/brainstorm.py": [
        make(BrainstormConfig(), known).json_schema
        for make in (brainstorm._objects_request, brainstorm._colors_request)
        for known in ([], ["red"])
    ],
    "pipelines/stages/write_reflections.py": [write_reflections.ANSWER_SCHEMA],
}

ALL = [text for texts in SCHEMAS.values() for text in texts]


def files_that_ask_for_a_form():
    """Where a ChatRequest is made with a schema."""
    found = set()
    for package in ("schemas", "inference", "trainers", "pipelines", "microworld", "recipes", "commands", "benchmarks"):
        for path in (ROOT / package).rglob("*.py"):
            calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
            if any(keyword.arg == "json_schema" for call in calls for keyword in call.keywords):
                found.add(str(path.relative_to(ROOT)))
    return found


def test_all_that_make_schemas_are_listed_here():
    assert files_that_ask_for_a_form() == SCHEMAS.keys()


@pytest.mark.parametrize("text", ALL)
def test_a_schema_is_strict_where_it_is_written(text):
    schema = json.loads(text)
    assert not strict_problems(schema)
    assert strict_schema(schema) == schema
    assert not strict_problems(strict_schema(schema, bare=True), bounds=False)


def test_the_walk_finds_what_openai_refuses():
    loose = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "object", "properties": {}}}}}
    assert len(strict_problems(loose)) == 3
    assert strict_problems({"type": "array", "items": {"type": "string"}})


def test_a_loose_schema_is_closed_at_every_depth():
    loose = {
        "type": "object",
        "properties": {
            "list": {"type": "array", "uniqueItems": True, "minItems": 1, "items": {"$ref": "#/$defs/thing"}},
            "either": {"anyOf": [{"type": "object", "properties": {"n": {"type": "integer", "minimum": 0}}}]},
            "text": {"type": "string", "minLength": 2},
        },
        "required": ["list"],
        "$defs": {"thing": {"type": "object", "properties": {"x": {"type": "string"}}, "additionalProperties": True}},
    }
    before = json.dumps(loose)
    strict = strict_schema(loose)
    assert not strict_problems(strict)
    assert strict["properties"]["text"] == {"anyOf": [{"type": "string"}, {"type": "null"}]}
    assert strict["properties"]["list"]["minItems"] == 1
    assert "minItems" not in strict_schema(loose, bare=True)["properties"]["list"]
    assert json.dumps(loose) == before
    assert strict_schema({"type": "object"}) is None  # of any properties: has no strict form
    assert strict_schema({"type": "array", "items": {"type": "string"}}) is None


def test_openai_takes_all_of_them_over_http(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    asked = [ChatRequest(f"q{i}", json_schema=text) for i, text in enumerate(ALL)]
    with openai_server() as (server, refused):
        EndpointVlm(EndpointConfig(server.base_url, "m", max_retries=0)).answer(asked)
    assert not refused
    assert all(payload["response_format"]["json_schema"]["strict"] for payload in server.payloads)
