"""`run.json` after edits and flipped bits: refused by name, never believed, never a traceback."""

import copy
import json
import random

import pytest

from commands.main import main
from commands.runs import open_run
from pipelines.run_folder import FORMAT, RunFolder
from schemas.checked_json import encode_checked
from schemas.errors import ForeignRunError
from tests.support.invented_run import Invented, invented_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "run"
    invented_run(path, Invented(num_prompts=8, num_candidates=2))
    return path


@pytest.fixture
def raw(run):
    """What its run.json says, put back afterwards."""
    data = (run / "run.json").read_bytes()
    yield json.loads(data)
    (run / "run.json").write_bytes(data)


def put(place, value):
    """A change of one value, at a place such as `config.generate.candidates_per_prompt`."""

    def change(raw):
        *route, last = place.split(".")
        at = raw
        for name in route:
            at = at[int(name)] if isinstance(at, list) else at[name]
        at[last] = value

    return change


def drop(name):
    return lambda raw: raw.pop(name)


def segment(**changes):
    return lambda raw: raw["segments"][0].update(changes)


def another_segment(first_unit, first_prompt, num_prompts=8):
    values = {"subset": "rule", "first_unit": first_unit, "first_prompt": first_prompt, "num_prompts": num_prompts}
    return lambda raw: raw["segments"].append(values)


HUGE = 10**12
EDITS = {
    **{f"without {name}": drop(name) for name in ("config", "seed", "unit_size", "root_key", "segments", "digests")},
    "seed as text": put("seed", "7"),
    "seed as a share": put("seed", 0.5),
    "seed true": put("seed", True),
    "no seed": put("seed", None),
    "unit size 0": put("unit_size", 0),
    "unit size below 0": put("unit_size", -4),
    "root key as a number": put("root_key", 3),
    "segments as an object": put("segments", {}),
    "segments of numbers": put("segments", [1]),
    "a segment of no prompts": segment(num_prompts=0),
    "a negative segment": segment(num_prompts=-8),
    "a huge segment": segment(num_prompts=HUGE),
    "a segment that begins later": segment(first_unit=3),
    "a segment below 0": segment(first_prompt=-1),
    "overlapping segments": another_segment(0, 0),
    "segments with a gap": another_segment(9, 8),
    "an unknown subset": segment(subset="sculpture"),
    "a segment with more to say": segment(weight=2),
    "digests as a list": put("digests", ["x"]),
    "a digest as a number": put("digests", {"micro/flux": 1}),
    "config as a list": put("config", []),
    "an unknown key": put("color", "red"),
    "an unknown key in config": put("config.colour", "red"),
    "an unknown key deeper": put("config.generate.generator.flux.colour", "red"),
    "a count as text": put("config.generate.candidates_per_prompt", "many"),
    "a stage's settings as a number": put("config.select", 3),
    "an unknown kind": put("config.generate.generator.kind", "oracle"),
    "thresholds that cross": put("config.select.hard_max", 0.9),
    "subsets as text": put("config.subsets", "rule"),
    "an unknown subset in config": put("config.subsets", ["sculpture"]),
    "an unknown job": put("job", "opera"),
    "job as a number": put("job", 4),
    "preset as a list": put("preset", []),
    "a number in intake's place": put("intake", 3),
    "digests of prompts as text": put("prompts_sha256", "abc"),
}
HARMLESS = {"seed": put("seed", 99), "rate": put("config.select.hard_max", 0.25), "commit": put("code_commit", "x")}


@pytest.mark.parametrize("name", [*EDITS, *HARMLESS])
def test_an_edited_run_json_is_refused_with_what_to_do(run, raw, name):
    (EDITS | HARMLESS)[name](raw)
    (run / "run.json").write_text(json.dumps(raw))
    with pytest.raises(ForeignRunError, match=r"run\.json: .*\n  bring it back from a copy") as refused:
        open_run(str(run))
    assert refused.value.exit_code == 3


@pytest.mark.parametrize("name", EDITS)
def test_a_run_json_with_a_digest_that_fits_is_looked_at_all_the_same(run, raw, name):
    """As a newer version, or a program that means well, would write it."""
    EDITS[name](raw)
    raw.pop("sha256")
    (run / "run.json").write_bytes(encode_checked(raw))
    with pytest.raises(ForeignRunError, match=r"/run(\.json)?: "):
        open_run(str(run))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (FORMAT + 1, f"a newer version made it .format {FORMAT + 1}.: take that version"),
        (FORMAT - 1, "an older version made it"),
        (0, "its format is 0"),
        (True, "its format is True"),
        ("3", "its format is '3'"),
        (None, "its format is None"),
    ],
)
def test_another_format_is_named(run, raw, said, message):
    raw["format"] = said
    raw.pop("sha256")
    (run / "run.json").write_bytes(encode_checked(raw))
    with pytest.raises(ForeignRunError, match=message):
        RunFolder.open(str(run))


def test_what_a_newer_version_says_besides_is_named(run, raw):
    raw.pop("sha256")
    raw["config"]["generate"]["of_tomorrow"] = 1
    (run / "run.json").write_bytes(encode_checked(raw))
    with pytest.raises(ForeignRunError, match=r"generate\.of_tomorrow: this version knows no such field"):
        open_run(str(run))


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 2000, b"[" * 100_000, b'{"format": 3, "x": "\\ud800", "sha256": "a"}', b"3", b"\xff\xfe"]
)
def test_what_is_no_json_object_is_refused(run, raw, content):
    (run / "run.json").write_bytes(content)
    with pytest.raises(ForeignRunError, match=r"run\.json"):
        RunFolder.open(str(run))


def test_no_flipped_bit_is_believed(run, raw):
    whole = (run / "run.json").read_bytes()
    asked = RunFolder.open(str(run)).info
    rng = random.Random(25)
    refused = 0
    for _ in range(300):
        data = bytearray(whole)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        (run / "run.json").write_bytes(data)
        try:
            assert RunFolder.open(str(run)).info == asked
        except ForeignRunError:
            refused += 1
    assert refused > 290


@pytest.mark.parametrize("command", ["status", "verify", "resume", "retry", "report", "inspect", "gc", "run", "plan"])
def test_every_command_ends_with_a_message(run, raw, command, capsys):
    put("seed", 5)(raw)
    (run / "run.json").write_text(json.dumps(raw))
    assert main([command, "--run", str(run)]) == 3
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "its digest does not fit" in said


def test_other_prompts_under_the_same_name_are_noticed(run, raw, tmp_path, capsys):
    other, _ = invented_run(tmp_path / "other", Invented(num_prompts=8, num_candidates=2, seed=9))
    prompts = (run / "prompts.parquet").read_bytes()
    (run / "prompts.parquet").write_bytes(other.storage.read("prompts.parquet"))
    try:
        assert main(["verify", "--run", str(run)]) == 1
        assert "prompts.parquet does not read: its bytes are not those" in capsys.readouterr().err
    finally:
        (run / "prompts.parquet").write_bytes(prompts)


def test_what_was_asked_survives_the_way_through_json(run, raw):
    before = copy.deepcopy(raw)
    folder = RunFolder.open(str(run)).with_info(RunFolder.open(str(run)).info)
    assert json.loads(folder.storage.read("run.json")) == before
