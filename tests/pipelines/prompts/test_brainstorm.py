import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipelines.prompts.brainstorm import BrainstormConfig, brainstorm_vocabulary
from pipelines.prompts.compose_rules import compose_prompts
from pipelines.prompts.vocabulary import ObjectClass, load_vocabulary, save_vocabulary
from schemas.errors import InputError, OutageError, WorkFailedError

OBJECTS = [
    {"name": "goose", "plural": "geese", "article": "a"},
    {"name": "hourglass", "plural": "hourglasses", "article": "an"},
    {"name": "Scissors", "plural": "scissors", "article": "a pair of"},
    {"name": "carpet cleaner", "plural": "carpet cleaners", "article": "a"},
]
COLORS = {"colors": ["red", "Blue", "red", "green"]}


class Say:
    """One scripted answer: the text of a completion, or a bare HTTP response."""

    def __init__(self, content=None, status=200, body=None, wait_s=0.0):
        self.status, self.wait_s = status, wait_s
        text = content if isinstance(content, str) or content is None else json.dumps(content)
        message = {"role": "assistant", "content": text}
        whole = {"id": "1", "object": "chat.completion", "choices": [{"index": 0, "message": message}]}
        self.body = json.dumps(whole) if body is None else body


@contextmanager
def endpoint(*script):
    """A chat completions server on loopback that gives the scripted answers in turn, and the requests it got."""
    requests = []
    answers = iter(script)
    released = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            payload = json.loads(self.rfile.read(int(self.headers["content-length"])))
            requests.append({"path": self.path, "key": self.headers["authorization"], **payload})
            answer = next(answers, Say(status=418, body='{"error": {"message": "nothing more to say"}}'))
            released.wait(answer.wait_s)
            try:
                self.send_response(answer.status)
                self.send_header("content-type", "application/json")
                self.send_header("retry-after-ms", "5")
                self.end_headers()
                self.wfile.write(answer.body.encode())
            except BrokenPipeError:
                pass  # the client had timed out

        def log_message(self, format, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", requests
    finally:
        released.set()
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "test-key")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def config(base_url, **changes):
    return BrainstormConfig(**{"model": "tiny", "base_url": base_url, "num_objects": 4, **changes})


def test_objects_and_colors_become_a_vocabulary(tmp_path):
    with endpoint(Say({"objects": OBJECTS}), Say(COLORS)) as (url, requests):
        vocabulary = brainstorm_vocabulary(config(url, topic="things of a farm", max_count=3), tmp_path)
    assert vocabulary.classes == (
        ObjectClass("goose", "geese"),
        ObjectClass("hourglass", "hourglasses", "an"),
        ObjectClass("scissors", "scissors", "a pair of"),
        ObjectClass("carpet cleaner", "carpet cleaners"),
    )
    assert vocabulary.colors == ("red", "blue", "green")
    assert vocabulary.max_count == 3
    first = requests[0]
    assert (first["path"], first["key"], first["model"]) == ("/v1/chat/completions", "Bearer test-key", "tiny")
    assert first["response_format"]["json_schema"]["schema"]["properties"].keys() == {"objects"}
    assert "things of a farm" in first["messages"][-1]["content"]


def test_the_vocabulary_can_be_saved_loaded_and_composed_from(tmp_path):
    with endpoint(Say({"objects": OBJECTS}), Say(COLORS)) as (url, _):
        vocabulary = brainstorm_vocabulary(config(url), tmp_path / "cache")
    save_vocabulary(vocabulary, tmp_path / "farm.json")
    assert load_vocabulary(tmp_path / "farm.json") == vocabulary
    assert len(compose_prompts(vocabulary, 40, 0, None).prompts) == 40


def test_a_second_brainstorm_makes_no_request(tmp_path):
    with endpoint(Say({"objects": OBJECTS}), Say(COLORS)) as (url, requests):
        first = brainstorm_vocabulary(config(url), tmp_path)
        assert brainstorm_vocabulary(config(url), tmp_path) == first
        assert len(requests) == 2
    # Nor does one elsewhere: the endpoint's address is no part of the question.
    assert brainstorm_vocabulary(config("http://127.0.0.1:9/v1", max_retries=0), tmp_path) == first


def test_another_question_is_asked_again(tmp_path):
    with endpoint(*[Say({"objects": OBJECTS}), Say(COLORS)] * 3) as (url, requests):
        brainstorm_vocabulary(config(url), tmp_path)
        brainstorm_vocabulary(config(url, model="other"), tmp_path)
        brainstorm_vocabulary(config(url, topic="tools"), tmp_path)
    assert len(requests) == 5  # the model's question about colours does not depend on the topic


def test_a_damaged_cache_entry_is_asked_for_again(tmp_path):
    with endpoint(Say({"objects": OBJECTS}), Say(COLORS), Say({"objects": OBJECTS})) as (url, requests):
        brainstorm_vocabulary(config(url), tmp_path)
        objects = next(path for path in tmp_path.rglob("*.json") if "goose" in json.loads(path.read_text())["answer"])
        objects.write_text(objects.read_text()[:-40])
        brainstorm_vocabulary(config(url), tmp_path)
        assert len(requests) == 3
        assert json.loads(objects.read_text())["payload"]["model"] == "tiny"


def test_it_asks_on_until_there_are_enough_different_objects(tmp_path):
    more = [
        {"name": "geese", "plural": "geese", "article": "a"},
        {"name": "Carpet Cleaner", "plural": "x", "article": "a"},
    ]
    rounds = (
        Say({"objects": OBJECTS[:2]}),
        Say({"objects": [OBJECTS[2], *more[:1]]}),
        Say({"objects": [OBJECTS[3], *more]}),
    )
    with endpoint(*rounds) as (url, requests):
        vocabulary = brainstorm_vocabulary(config(url, objects_per_request=2, colors=("red", "blue")), tmp_path)
    assert [cls.name for cls in vocabulary.classes] == ["goose", "hourglass", "scissors", "carpet cleaner"]
    assert vocabulary.colors == ("red", "blue")
    assert "goose, hourglass, scissors" in requests[2]["messages"][-1]["content"]


def test_busy_and_broken_servers_are_tried_again(tmp_path):
    busy = Say(status=429, body='{"error": {"message": "slow down"}}')
    script = (busy, Say(status=503, body="no"), Say({"objects": OBJECTS}), busy, Say(COLORS))
    with endpoint(*script) as (url, requests):
        assert len(brainstorm_vocabulary(config(url), tmp_path).classes) == 4
    assert len(requests) == 5


def test_a_server_that_hangs_is_tried_again(tmp_path):
    with endpoint(Say("late", wait_s=60), Say({"objects": OBJECTS})) as (url, requests):
        brainstorm_vocabulary(config(url, timeout_s=2, colors=("red", "blue")), tmp_path)
    assert len(requests) == 2


def test_a_server_that_stays_away_is_an_outage_and_keeps_what_was_answered(tmp_path):
    busy = Say(status=503, body="no")
    with endpoint(Say({"objects": OBJECTS[:2]}), busy, busy) as (url, _), pytest.raises(OutageError, match="2 tries"):
        brainstorm_vocabulary(config(url, max_retries=1, objects_per_request=2), tmp_path)
    with endpoint(Say({"objects": OBJECTS[2:]}), Say(COLORS)) as (url, requests):
        assert len(brainstorm_vocabulary(config(url, objects_per_request=2), tmp_path).classes) == 4
    assert len(requests) == 2


@pytest.mark.parametrize(
    "garbage",
    [
        Say("Sure! Here are some objects: goose, duck"),
        Say('{"objects": [{"name": "goo'),
        Say({"things": []}),
        Say({"objects": []}),
        Say({"objects": [{"name": "a.b", "plural": "x", "article": "a"}, "duck", {"name": "no plural"}]}),
        Say(None),
        Say(body="<html>hello</html>"),
        Say(body='{"choices": []}'),
    ],
    ids=["prose", "cut", "other key", "empty", "unusable entries", "no text", "html", "no choice"],
)
def test_garbage_is_asked_again_with_another_seed(tmp_path, garbage):
    with endpoint(garbage, Say({"objects": OBJECTS})) as (url, requests):
        vocabulary = brainstorm_vocabulary(config(url, colors=("red", "blue")), tmp_path)
        assert len(vocabulary.classes) == 4
        assert len(requests) == 2
        assert requests[0]["seed"] != requests[1]["seed"]
        # The good answer is what was kept.
        assert brainstorm_vocabulary(config(url, colors=("red", "blue")), tmp_path) == vocabulary
        assert len(requests) == 2


def test_nothing_but_garbage_is_an_error_that_says_what_came(tmp_path):
    with endpoint(*[Say("I cannot do that")] * 3) as (url, requests):
        with pytest.raises(WorkFailedError, match="no usable list of objects in 3 tries") as caught:
            brainstorm_vocabulary(config(url, max_reasks=2), tmp_path)
        assert len(requests) == 3
    assert "not valid JSON" in str(caught.value)
    assert list(tmp_path.rglob("*.json")) == []


def test_unusable_entries_are_left_out_and_the_rest_is_used(tmp_path):
    mixed = [OBJECTS[0], {"name": "x" * 60, "plural": "y", "article": "a"}, {**OBJECTS[1], "note": "ignored"}]
    with endpoint(Say({"objects": mixed})) as (url, _):
        vocabulary = brainstorm_vocabulary(config(url, num_objects=2, colors=("red", "blue")), tmp_path)
    assert [cls.name for cls in vocabulary.classes] == ["goose", "hourglass"]


def test_a_model_that_repeats_itself_is_an_error(tmp_path):
    with endpoint(*[Say({"objects": OBJECTS})] * 4) as (url, requests):
        with pytest.raises(WorkFailedError, match="only 4 different objects of 5"):
            brainstorm_vocabulary(config(url, num_objects=5, max_reasks=2), tmp_path)
        assert len(requests) == 4


@pytest.mark.parametrize(("status", "field"), [(401, "OPENAI_API_KEY"), (404, "model")])
def test_a_wrong_key_or_model_is_bad_usage(tmp_path, status, field):
    with endpoint(Say(status=status, body='{"error": {"message": "no"}}')) as (url, requests):
        with pytest.raises(InputError) as caught:
            brainstorm_vocabulary(config(url), tmp_path)
        assert len(requests) == 1
    assert caught.value.field == field


def test_a_refused_request_says_why(tmp_path):
    body = '{"error": {"message": "response_format is not supported"}}'
    with endpoint(Say(status=400, body=body)) as (url, _), pytest.raises(WorkFailedError, match="response_format"):
        brainstorm_vocabulary(config(url), tmp_path)


def test_without_a_key_an_own_server_is_asked_but_not_openai(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with endpoint(Say({"objects": OBJECTS}), Say(COLORS)) as (url, _):
        assert brainstorm_vocabulary(config(url), tmp_path / "a").colors
    with pytest.raises(InputError) as caught:
        brainstorm_vocabulary(config(None), tmp_path / "b")
    assert caught.value.field == "OPENAI_API_KEY"


def test_senseless_sizes_are_bad_usage(tmp_path):
    with pytest.raises(InputError) as caught:
        brainstorm_vocabulary(config("http://127.0.0.1:9/v1", num_objects=0), tmp_path)
    assert caught.value.field == "num_objects"
