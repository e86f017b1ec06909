"""Nothing from elsewhere steers a terminal, passes for a line of ours, or shows a secret."""

import ast
import base64
import json
import logging
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

import schemas.redaction
from schemas.errors import InputError
from schemas.plain_text import one_line, shown
from schemas.redaction import guard, guard_environment, hide
from schemas.terminal import PlainFormatter, say, say_error

ROOT = Path(__file__).parents[2]
HOSTILE = "a\x1b[2J\x07\x00\r\x9b31m\u202eb\u2028\u2066\ufeff\udcff\U000e0041"
BAD = set("\x1b\x07\x00\r\x9b\u202e\u2028\u2066\ufeff\udcff\U000e0041")


def test_what_steers_a_terminal_is_shown_as_its_code(capsys):
    say(HOSTILE)
    say_error(f"error: {HOSTILE}")
    said = capsys.readouterr()
    for text in (said.out, said.err):
        assert not BAD & set(text)
        assert r"\u001b[2J" in text
    assert one_line("a\nb") == r"a\nb"
    assert shown("größer, 猫, 👨‍👩‍👧, a\tb\nc") == "größer, 猫, 👨‍👩‍👧, a\tb\nc"
    assert json.loads(shown(json.dumps(HOSTILE, ensure_ascii=False))) == HOSTILE


def test_a_line_break_in_an_error_or_a_log_makes_no_line_of_its_own(capsys):
    error = InputError("no file", file="x\nerror: all is well")
    say_error(f"error: {error}\neverything adds up")
    assert r"x\nerror: all is well" in (said := capsys.readouterr().err)
    assert all(line.startswith(("error: ", "  ")) for line in said.splitlines())
    record = logging.LogRecord("a", logging.INFO, "", 0, "one\nINFO two %s", ("\x1b[0m",), None)
    assert PlainFormatter("%(levelname)s %(message)s").format(record) == "INFO one\n  INFO two \\u001b[0m"


def test_all_printing_goes_one_way():
    """`print`, and handlers of logs with a formatter of their own, are nowhere else."""
    found = []
    for package in ("commands", "pipelines", "trainers", "inference", "schemas", "recipes"):
        for path in (ROOT / package).rglob("*.py"):
            if path.name != "terminal.py":
                for node in ast.walk(ast.parse(path.read_text())):
                    name = node.func if isinstance(node, ast.Call) else None
                    if (isinstance(name, ast.Name) and name.id == "print") or (
                        isinstance(name, ast.Attribute) and name.attr == "Formatter"
                    ):
                        found.append(f"{path}:{name.lineno}")
    assert not found


@pytest.mark.parametrize("command", [["inspect", "--run"], ["status", "--run"]])
def test_a_name_on_the_command_line_reaches_the_terminal_escaped(tmp_path, command):
    name = str(tmp_path / "a\x1b[2Jb\nerror: none\u202e")
    done = subprocess.run([sys.executable, "-m", "pipelines", *command, name], cwd=ROOT, capture_output=True)
    assert done.returncode
    assert b"\x1b[2J" not in done.stdout + done.stderr
    assert "\u202e".encode() not in done.stdout + done.stderr


@pytest.fixture
def nothing_guarded(monkeypatch):
    monkeypatch.setattr(schemas.redaction, "_secrets", ("no such secret",))
    monkeypatch.setattr(schemas.redaction, "_known", set())


SECRET = "s3cr+t/value=~9"


@pytest.mark.parametrize(
    "echo",
    [
        SECRET,
        f"Bearer {SECRET}",
        quote(SECRET, safe=""),
        quote(SECRET, safe="").lower(),
        json.dumps({"key": SECRET}),
        base64.b64encode(f"user:{SECRET}".encode()).decode(),
        base64.b64encode(f"me:{SECRET}".encode()).decode(),
        base64.urlsafe_b64encode(f"a:{SECRET}".encode()).decode(),
        base64.b64encode(SECRET.encode()).decode(),
    ],
)
def test_a_secret_is_hidden_in_every_form_in_which_it_is_repeated(nothing_guarded, echo):
    guard(SECRET)
    said = hide(f"refused: {echo}!")
    assert SECRET not in said
    assert "[hidden]" in said
    assert base64.b64encode(SECRET.encode()).decode()[4:12] not in said


def test_the_environment_s_secrets_are_known_by_their_names(nothing_guarded, monkeypatch, tmp_path):
    (tmp_path / "key.pem").write_text("x")
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "MY_API_KEY", "DB_PASSWORD"):
        monkeypatch.setenv(name, f"value-of-{name.lower()}")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "not-a-secret")
    monkeypatch.setenv("SSH_KEY", str(tmp_path / "key.pem"))
    guard_environment()
    said = hide("value-of-hf_token value-of-aws_secret_access_key value-of-aws_access_key_id value-of-my_api_key")
    assert said == "[hidden] [hidden] [hidden] [hidden]"
    assert hide("value-of-db_password not-a-secret") == "[hidden] not-a-secret"
    assert hide(str(tmp_path / "key.pem")) == str(tmp_path / "key.pem")


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("GET http://me:pw@host/v1?a=1", "GET http://[hidden]@host/v1?a=1"),
        ("s3://k:s@bucket/x?X-Amz-Signature=abc&b=1", "s3://[hidden]@bucket/x?X-Amz-Signature=[hidden]&b=1"),
        ("https://h/v1?api_key=abc&code=5 more", "https://h/v1?api_key=[hidden]&code=[hidden] more"),
        ("hf://datasets/a/b@main, http://h/v1", "hf://datasets/a/b@main, http://h/v1"),
    ],
)
def test_what_addresses_hold_of_secrets_is_hidden(text, hidden):
    assert hide(text) == hidden
