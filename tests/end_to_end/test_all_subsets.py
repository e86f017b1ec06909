"""All four subsets with reflections, from the command line: the micro models, and a VLM behind a real HTTP server."""

import json
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.chat_server import COMPARED, Reply, chat_server, fails, says, text_of
from tests.support.openai_server import KEY, refusal

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def pipelines(*arguments: str, code: int = 0) -> str:
    command = [sys.executable, "-m", "pipelines", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def answer(payload, number):
    text = text_of(payload)
    if text.startswith("Condense"):
        words = text.split('"')[1].split(".")[0].split()
        return says(" ".join(words[:5]))
    if text.startswith("Which image"):
        return says(COMPARED)
    if payload.get("logprobs"):
        # The better image is a matter of its bytes: half of the pairs pass.
        yes = -0.1 - (sum(json.dumps(payload).encode()) % 97) / 97
        tokens = [{"token": t, "logprob": p, "bytes": None} for t, p in (("Yes", yes), ("No", -3.0))]
        body = json.loads(says("Yes").body)
        body["choices"][0]["logprobs"] = {"content": [{**tokens[0], "top_logprobs": tokens}]}
        return Reply(json.dumps(body))
    return says("some coloured shapes on a grey background")


def flags(server, *more):
    return [
        *("--subsets", "rule", "general", "length", "editing", "--annotate", "--num-prompts", "4", "--unit-size", "2"),
        *("--generate.candidates-per-prompt", "4", "--select.keep-bins", "easy", "medium", "hard"),
        *("--pair.min-margin", "0", "--vlm.model", "", "--vlm.endpoint-model", "scripted"),
        *("--vlm.base-url", server.base_url, *more),
    ]


def samples_of(run):
    found = {}
    for path in sorted((run / "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, name = member.name.partition(".")
                found.setdefault(key, {})[name] = tar.extractfile(member).read()
    return found


def test_one_command_builds_four_subsets_and_a_new_prompt_redoes_no_image(tmp_path):
    run, fork, prompt = tmp_path / "run", tmp_path / "fork", tmp_path / "compare.txt"
    prompt.write_text('Which image is better for "{prompt}"? JSON.')
    with chat_server(answer) as server:
        pipelines("run", "--run", str(run), *flags(server))
        found = json.loads(pipelines("verify", "--run", str(run), "--deep", "--json"))
        assert found["problems"] == []
        assert found["prompts"]["pending"] == found["prompts"]["quarantined"] == 0
        assert found["rejected_pairs_by_reason"].get("wrong_verdict", 0) > 0
        samples = samples_of(run)
        by_subset = Counter(sample["subset.txt"].decode() for sample in samples.values())
        assert set(by_subset) <= {"rule", "general", "length", "editing"}
        assert {"general", "editing"} & set(by_subset)
        for sample in samples.values():
            meta = json.loads(sample["meta.json"])
            assert meta["good_score"] > meta["bad_score"]
            if sample["subset.txt"] == b"editing":
                assert sample["cot.json"] == b"null"
                assert sample["prompt.txt"] == b"some coloured shapes on a grey background"
            else:
                cot = json.loads(sample["cot.json"])
                assert cot["verdict"] == cot["good_side"] == "left"
                assert sample["reflection.txt"].decode() == cot["instruction"] == "Add a red star."
        before = len(server.payloads)
        pipelines("run", "--run", str(run), *flags(server))
        assert len(server.payloads) == before

        pipelines("run", "--run", str(run), *flags(server, "--reflect.prompt", str(prompt)), code=3)
        pipelines("run", "--run", str(run), "--fork", str(fork), *flags(server, "--reflect.prompt", str(prompt)))
        asked = [text_of(p) for p in server.payloads[before:]]
        assert asked
        assert not any(text.startswith(("Condense", "Describe")) for text in asked)
    images = [p for s in ("generate_candidates", "read_edits") for p in (run / "stages" / s).rglob("*.parquet")]
    assert images
    for path in images:
        copy = fork / path.relative_to(run)
        assert copy.stat().st_ino == path.stat().st_ino  # a hard link: the block itself
    assert json.loads(pipelines("verify", "--run", str(fork), "--deep", "--json"))["problems"] == []


def test_an_endpoint_that_goes_away_stops_the_run_and_nothing_is_asked_twice(tmp_path):
    run = tmp_path / "run"
    more = ["--failures.max-attempts", "2", "--failures.first-wait-s", "0.1"]
    is_away = False

    def sometimes(payload, number):
        return fails(503) if is_away else answer(payload, number)

    def until_it_is_away(payload, number):
        nonlocal is_away
        is_away = is_away or text_of(payload).startswith("Which image")
        return sometimes(payload, number)

    with chat_server(until_it_is_away, lives=False) as server:
        said = pipelines("run", "--run", str(run), *flags(server, *more), code=1)
        assert "nothing was quarantined" in said
        asked = {json.dumps(p, sort_keys=True) for p in server.payloads if not text_of(p).startswith("Which image")}
        assert not (run / "quarantine").exists() or not any((run / "quarantine").rglob("*.json"))
        is_away, server.answer, server.payloads = False, answer, []
        pipelines("resume", "--run", str(run))
        assert not asked & {json.dumps(p, sort_keys=True) for p in server.payloads}
    assert json.loads(pipelines("verify", "--run", str(run), "--deep", "--json"))["problems"] == []


def test_a_request_that_is_never_answered_puts_one_row_in_quarantine_and_retry_brings_it_back(tmp_path):
    run = tmp_path / "run"
    broken = []

    def one_is_broken(payload, number):
        if text_of(payload).startswith("Condense") and not broken:
            broken.append(text_of(payload))
        return fails(500) if text_of(payload) in broken and not healed else answer(payload, number)

    healed = []
    with chat_server(one_is_broken) as server:
        arguments = list(flags(server))
        arguments[1:5] = ["length"]
        pipelines("run", "--run", str(run), *arguments, code=4)
        (entry,) = (run / "quarantine").rglob("*.json")
        assert "lives, but not for this request" in json.loads(entry.read_text())["error"]
        healed.append(True)
        pipelines("retry", "--run", str(run))
    found = json.loads(pipelines("verify", "--run", str(run), "--json"))
    assert found["problems"] == []
    assert found["prompts"]["quarantined"] == 0


def test_a_key_is_in_nothing_that_a_run_writes(tmp_path, monkeypatch):
    """An endpoint that repeats what it was sent in every answer and error, and a client that logs all it can."""
    run, secret = tmp_path / "run", "Basic Zm9vOmJhcmJhcg=="
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("GATEWAY", secret)
    monkeypatch.setenv("OPENAI_LOG", "debug")
    echo = f"Authorization: Bearer {KEY}, x-gateway: {secret}"
    refused = []

    def repeats(payload, number):
        text = text_of(payload)
        if text.startswith("Condense") and (not refused or text in refused):
            refused.append(text)
            return refusal(echo)
        reply = answer(payload, number)
        return says(f"shapes {echo}") if text.startswith(("Condense", "Describe")) else reply

    with chat_server(repeats, key=KEY) as server:
        said = pipelines("run", "--run", str(run), *flags(server, "--vlm.headers", "x-gateway=GATEWAY"), code=4)
        said += pipelines("report", "--run", str(run))
        said += pipelines("status", "--run", str(run))
        assert {headers["x-gateway"] for headers in server.headers} == {secret}
    written = {path: path.read_bytes().decode(errors="replace") for path in run.rglob("*") if path.is_file()}
    for path in run.rglob("*.parquet"):
        written[path] = str(pq.read_table(path).to_pylist())
    assert "openai" in (run / "logs" / "run.log").read_text()
    assert any((run / "quarantine").rglob("*.json"))
    assert "[hidden]" in "".join(written.values())
    for text in (said, *written.values()):
        assert KEY not in text
        assert secret.split()[1] not in text
