"""What OpenAI's own API says of requests: real HTTP, the errors in its words' form. `openai_server` answers as a model
of a given kind does; everything that it turns down is in `refused`."""

import json
from contextlib import contextmanager
from typing import Any

from tests.support.chat_server import Reply, chat_server, says

KEY = "sk-proj-0123456789abcdefghijklmnop"
_TYPES = {"string", "number", "integer", "boolean", "object", "array", "null"}
_KEYWORDS = {
    *("type", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf", "$ref", "$defs"),
    *("description", "title", "default", "pattern", "format", "multipleOf", "minimum", "maximum", "exclusiveMinimum"),
    *("exclusiveMaximum", "minItems", "maxItems"),
}


def strict_problems(schema: Any, context: tuple[str, ...] = (), bounds: bool = True) -> list[str]:
    """Why OpenAI's strict mode refuses a schema; empty for one that it takes. bounds: False for fine-tuned models."""
    if not isinstance(schema, dict):
        return [f"In context={context}, schema must be an object"]
    found: list[str] = []
    if not context and schema.get("type") != "object":
        found.append(f"schema must be a JSON Schema of 'type: \"object\"', got 'type: {schema.get('type')!r}'.")
    allowed = _KEYWORDS if bounds else {k for k in _KEYWORDS if not k.startswith(("min", "max", "excl", "multi"))}
    found += [f"In context={context}, '{key}' is not permitted." for key in schema if key not in allowed]
    kinds = schema.get("type", [])
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if set(kinds) - _TYPES or not (kinds or schema.keys() & {"anyOf", "$ref", "enum", "const"}):
        found.append(f"In context={context}, schema must have a 'type' key.")
    if "object" in kinds:
        if schema.get("additionalProperties") is not False:
            found.append(f"In context={context}, 'additionalProperties' is required to be supplied and to be false.")
        properties = schema.get("properties", {})
        if sorted(schema.get("required", [])) != sorted(properties):
            found.append(f"In context={context}, 'required' is required to include every key in properties.")
        for name, one in properties.items():
            found += strict_problems(one, (*context, "properties", name), bounds)
    if "array" in kinds:
        found += strict_problems(schema.get("items"), (*context, "items"), bounds)
    for number, one in enumerate(schema.get("anyOf", [])):
        found += strict_problems(one, (*context, "anyOf", str(number)), bounds)
    for name, one in schema.get("$defs", {}).items():
        found += strict_problems(one, (*context, "$defs", name), bounds)
    return found


def refusal(message: str, param: str | None = None, code: str | None = None, status: int = 400) -> Reply:
    """An error in OpenAI's form."""
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return Reply(json.dumps({"error": error}), status)


def _complaint(payload: dict[str, Any], reasoning: bool) -> Reply | None:
    unknown = payload.keys() - {
        *("model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "logprobs"),
        *("top_logprobs", "response_format"),
    }
    if unknown:
        return refusal(f"Unrecognized request argument supplied: {min(unknown)}")
    if reasoning and "max_tokens" in payload:
        said = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'"
        return refusal(f"{said} instead.", "max_tokens", "unsupported_parameter")
    if reasoning and payload.get("temperature", 1) != 1:
        said = f"Unsupported value: 'temperature' does not support {payload['temperature']} with this model."
        return refusal(f"{said} Only the default (1) value is supported.", "temperature", "unsupported_value")
    if reasoning and "top_p" in payload:
        said = "Unsupported parameter: 'top_p' is not supported with this model."
        return refusal(said, "top_p", "unsupported_parameter")
    if reasoning and "logprobs" in payload:
        return refusal("You are not allowed to request logprobs from this model.", status=403)
    answer = payload.get("response_format", {}).get("json_schema", {})
    problems = strict_problems(answer["schema"]) if answer.get("strict") else []
    if problems:
        said = f"Invalid schema for response_format '{answer['name']}': {problems[0]}"
        return refusal(said, "response_format", "invalid_json_schema")
    return None


@contextmanager
def openai_server(reasoning: bool = False, answer: str = '{"ok": true}'):
    """A running server with one model, `m`; without KEY it answers nothing."""
    refused: list[str] = []

    def reply(payload: dict[str, Any], number: int) -> Reply:
        if payload["model"] != "m":
            said = f"The model `{payload['model']}` does not exist or you do not have access to it."
            found = refusal(said, None, "model_not_found", 404)
        else:
            found = _complaint(payload, reasoning)
        if found is None:
            return says(answer)
        refused.append(json.loads(found.body)["error"]["message"])
        return found

    with chat_server(reply, key=KEY, models=("m", "n")) as server:
        yield server, refused
