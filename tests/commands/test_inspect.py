"""`inspect` shows what a run holds, and says what it would accept when asked for something else."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from commands.main import main
from pipelines.jobs import resolve_chains
from pipelines.pack_shards import pack_shard, shard_ranges
from schemas.images import sha256
from schemas.records import PromptRecord
from tests.support.invented_run import Invented, invented_run

Inspect = Callable[..., tuple[int, str, str]]


@pytest.fixture
def inspect(capsys: pytest.CaptureFixture[str]) -> Inspect:
    """Runs the command; gives its exit code and what it printed."""

    def run(path: Path, *arguments: str) -> tuple[int, str, str]:
        code = main(["inspect", "--run", str(path), *arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def _escape(index: int, prompt: PromptRecord) -> PromptRecord:
    return replace(prompt, text=f"\x1b[2J\x9b1m\n{prompt.text}")


def test_a_prompt_is_shown_with_its_candidates_pairs_and_stages(tmp_path: Path, inspect: Inspect) -> None:
    folder, config = invented_run(tmp_path / "run")
    steps = resolve_chains(folder, config)["rule"]
    _, rows = folder.read_block(steps[-1].name, steps[-1].key, 1)
    row = next(row for row in rows if row.shipped_pairs)
    code, printed, _ = inspect(tmp_path / "run", "--prompt", row.prompt.prompt_id)
    assert code == 0
    for step in steps:
        assert step.key in printed
        assert folder.read_footer(step.name, step.key, 1).input_hash[:12] in printed
    for candidate in row.candidates:
        assert str(candidate.seed) in printed
        assert candidate.check is not None
        assert all(reason in printed for reason in candidate.check.reasons)
    for pair in row.shipped_pairs:
        assert pair.reflection is not None
        assert pair.reflection.text in printed
    assert "48 generations, 384 denoiser passes" in printed
    assert all(other.prompt.prompt_id not in printed for other in rows if other is not row)


def test_json_is_one_object_without_images(tmp_path: Path, inspect: Inspect) -> None:
    invented_run(tmp_path / "run", Invented(quarantine_every=5))
    code, printed, _ = inspect(tmp_path / "run", "--unit", "0", "--json")
    told = json.loads(printed)
    assert code == 0
    assert [stage["state"] for stage in told["stages"]] == ["committed"] * 3
    assert [row["outcome"] == "quarantined" for row in told["rows"]] == [i % 5 == 1 for i in range(8)]
    assert len(told["rows"][0]["candidates"]) == 6
    assert told["rows"][0]["candidates"][0]["check"]["objects"][0]["box"]


def test_images_of_candidates_are_written_under_harmless_names(tmp_path: Path, inspect: Inspect) -> None:
    folder, config = invented_run(tmp_path / "run")
    code, printed, _ = inspect(tmp_path / "run", "--unit", "2", "--images", str(tmp_path / "out" / "images"))
    written = sorted((tmp_path / "out" / "images").glob("*.png"))
    assert code == 0
    said = json.loads((tmp_path / "out" / "images" / "unit-2.json").read_text())
    assert [str(c["seed"]) in printed for row in said["rows"] for c in row["candidates"]] == [True] * 48
    assert "48 images written" in printed
    assert len(written) == 48
    assert written[0].name.startswith("rule-000016-c00-")
    step = resolve_chains(folder, config)["rule"][0]
    _, rows = folder.read_block(step.name, step.key, 2)
    assert sha256(written[0].read_bytes()) == rows[0].candidates[0].image_sha256


def test_a_shard_is_shown_sample_by_sample(tmp_path: Path, inspect: Inspect) -> None:
    folder, config = invented_run(tmp_path / "run")
    (units,) = shard_ranges(folder, config.pack)
    sidecar = pack_shard(folder, resolve_chains(folder, config), config.pack, 0, units)
    code, printed, _ = inspect(tmp_path / "run", "--shard", "0", "--images", str(tmp_path / "images"))
    assert code == 0
    assert f"{sidecar.num_samples} samples" in printed
    assert printed.count("bad candidate") == sidecar.num_samples > 0
    images = [path for path in (tmp_path / "images").iterdir() if path.name != "shard-0.json"]
    assert len(images) == 2 * sidecar.num_samples
    assert Image.open(io.BytesIO(images[0].read_bytes())).size == (32, 32)
    code, printed, _ = inspect(tmp_path / "run", "--shard", "0", "--json")
    assert len(json.loads(printed)["samples"]) == sidecar.num_samples


def test_without_a_choice_it_says_what_there_is(tmp_path: Path, inspect: Inspect) -> None:
    invented_run(tmp_path / "run", Invented(num_units_done=1))
    code, printed, _ = inspect(tmp_path / "run")
    assert code == 0
    assert "units 0 to 2 (--unit), prompts rule-000000 to rule-000023 (--prompt)" in printed
    assert "select_pairs           1/3 units committed" in printed
    assert "not packed yet" in printed


def test_what_is_not_made_yet_or_broken_is_said_so(tmp_path: Path, inspect: Inspect) -> None:
    folder, config = invented_run(tmp_path / "run", Invented(num_units_done=2))
    step = resolve_chains(folder, config)["rule"][-1]
    path = tmp_path / "run" / folder.block_path(step.name, step.key, 1)
    path.write_bytes(path.read_bytes()[:50])
    code, printed, _ = inspect(tmp_path / "run", "--unit", "1")
    assert code == 0
    assert "select_pairs           unreadable" in printed
    assert "rule-000008" in printed
    assert ": pending" in printed
    code, printed, _ = inspect(tmp_path / "run", "--unit", "2")
    assert code == 0
    assert printed.count("missing: not committed yet") == 3


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--unit", "3"], ["no unit 3", "--unit", "0 to 2"]),
        (["--unit", "-1"], ["no unit -1", "0 to 2"]),
        (["--prompt", "\x1b[2J"], ["no prompt '\\\\x1b[2J'", "an id such as rule-000000"]),
        (["--shard", "1"], ["no shard 1", "0 to 0"]),
        (["--shard", "0"], ["shard 0 is not packed yet"]),
        (["--unit", "0", "--shard", "0"], ["one of --unit, --prompt, --shard and --find"]),
        (["--images", "somewhere"], ["--images", "--unit, --prompt, --shard or --find"]),
        (["--unit", "0", "--images", "/proc/nowhere"], ["/proc/nowhere", "cannot be written"]),
    ],
)
def test_a_wrong_request_is_a_usage_error_that_names_the_right_ones(
    tmp_path: Path, inspect: Inspect, arguments: list[str], told: list[str]
) -> None:
    invented_run(tmp_path / "run", Invented(num_candidates=2))
    code, _, problem = inspect(tmp_path / "run", *arguments)
    assert code == 2
    assert all(words in problem for words in told)


def test_no_escape_sequence_of_a_prompt_reaches_the_terminal(tmp_path: Path, inspect: Inspect) -> None:
    invented_run(tmp_path / "run", Invented(num_prompts=8, rewrite=_escape))
    _, printed, _ = inspect(tmp_path / "run", "--unit", "0")
    assert "\\x1b[2J\\x9b1m\\na photo" in printed
    assert not [c for c in printed if not c.isprintable() and c != "\n"]


def test_prompts_are_found_by_words(tmp_path: Path, inspect: Inspect) -> None:
    folder, config = invented_run(tmp_path / "run", Invented(num_prompts=48, quarantine_every=9))
    (last,) = [steps[-1] for steps in resolve_chains(folder, config).values()]
    rows = [row for unit in folder.units() for row in folder.read_block(last.name, last.key, unit)[1]]
    wanted = [row.prompt.prompt_id for row in rows if "ring" in row.prompt.text and "blue" in row.prompt.text]
    code, printed, _ = inspect(tmp_path / "run", "--find", "Ring BLUE", "--json")
    told = json.loads(printed)
    assert code == 0
    found = [row["prompt"]["prompt_id"] for row in told["rows"]]
    assert set(wanted) <= set(found)
    assert len(found) == told["found"] < 48
    # By what was said of its images, too.
    reflected = next(row for row in rows if row.shipped_pairs)
    sentence = reflected.shipped_pairs[0].reflection.text
    code, printed, _ = inspect(tmp_path / "run", "--find", sentence, "--images", str(tmp_path / "out"))
    assert code == 0
    assert f"{reflected.prompt.prompt_id}: {reflected.prompt.text}" in printed
    assert "paired by the check" in printed
    assert list((tmp_path / "out").glob(f"{reflected.prompt.prompt_id}-c*.png"))
    code, printed, _ = inspect(tmp_path / "run", "--find", "NaN boxes")
    assert code == 0
    assert printed.count("in quarantine, failed in") == sum(row.quarantine is not None for row in rows)
    for nothing in ("zebra", " ", "\x1b[2J"):
        code, printed, said = inspect(tmp_path / "run", "--find", nothing)
        assert (code, printed) == (2, "")
        assert "--find" in said
        assert "\x1b" not in said
    code, _, said = inspect(tmp_path / "run", "--find", "ring", "--unit", "0")
    assert code == 2
    assert "at once" in said


def test_a_run_that_has_not_begun_is_searched_by_its_prompts(tmp_path: Path, inspect: Inspect) -> None:
    folder, _ = invented_run(tmp_path / "run", Invented(num_units_done=0))
    row = folder.prompts(1)[3]
    code, printed, _ = inspect(tmp_path / "run", "--find", row.prompt.text)
    assert code == 0
    assert row.prompt.prompt_id in printed


def test_images_are_not_written_over(tmp_path: Path, inspect: Inspect) -> None:
    for name, seed in (("one", 0), ("other", 1)):
        invented_run(tmp_path / name, Invented(num_prompts=8, seed=seed))
    out = tmp_path / "out"
    assert inspect(tmp_path / "one", "--unit", "0", "--images", str(out))[0] == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert inspect(tmp_path / "one", "--unit", "0", "--images", str(out))[0] == 0
    code, _, said = inspect(tmp_path / "other", "--unit", "0", "--images", str(out))
    assert code == 2
    assert "not written over" in said
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
