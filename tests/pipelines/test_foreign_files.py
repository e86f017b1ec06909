"""What file managers, network file systems, editors and synchronised folders leave in a run folder is passed over by
everything; entries in quarantine that are broken, or lie about where they belong, lead nowhere."""

import json
import shutil
from pathlib import Path

import pytest

from commands.main import main
from commands.push import push
from pipelines.conservation import verify
from pipelines.garbage import collect_garbage
from pipelines.jobs import resolve_chains
from pipelines.pack_shards import pack_shard, shard_ranges, write_index
from pipelines.quarantine import clear_quarantine, quarantined_rows
from pipelines.report.dataset_card import write_card
from schemas.checked_json import encode_checked
from schemas.errors import WorkFailedError
from tests.support.invented_run import Invented, invented_run
from tests.support.toy_job import open_run
from tests.support.toy_runs import run, shards
from trainers.shard_index import open_index

FOREIGN = (
    ".DS_Store",
    "._000000.parquet",
    ".nfs000000000001a2b300000001",
    "Thumbs.db",
    "desktop.ini",
    "000000 (conflicted copy).parquet",
    "000000-001 (conflicted copy).json",
    "genref_000000.json~",
    "000000-001.json~",
    "#000000-001.json#",
    "index.sync-conflict-20260101-000000-ABCDEFG.json",
    ".000000.parquet.swp",
    "٠٠٠٠٠٠.parquet",
    "0000000000000000001.parquet",
    "lost+found",
)
PLACES = ("", "stages", "stages/*", "stages/*/*", "stages/*/*/*", "quarantine", "quarantine/*", "shards", "barriers")
PLACES += ("stats", "card", "report")


def litter(path: Path) -> dict[Path, bytes]:
    """Foreign files in every folder of a run."""
    left = {}
    for place in PLACES:
        for folder in [path, *path.glob("*/")] if not place else list(path.glob(place)):
            if folder.is_dir():
                left |= {folder / name: f"foreign {name}".encode() for name in FOREIGN}
    for file, data in left.items():
        file.write_bytes(data)
    (path / "stages" / "Neuer Ordner").mkdir(exist_ok=True)
    (path / "quarantine" / ".Trash-1000").mkdir(exist_ok=True)
    (path / "quarantine" / ".Trash-1000" / "000000-000.json").write_bytes(b"{}")
    return left


def untouched(left: dict[Path, bytes]) -> bool:
    return all(file.read_bytes() == data for file, data in left.items())


@pytest.fixture
def failed(tmp_path, monkeypatch):
    """A finished toy run with a row in quarantine."""
    path = tmp_path / "run"
    monkeypatch.setenv("TOY_FAIL", "p006")
    run(path)
    monkeypatch.delenv("TOY_FAIL")
    return path


@pytest.fixture(scope="module")
def littered(tmp_path_factory):
    """A run as commands open it, packed, with rows in quarantine and foreign files everywhere."""
    path = tmp_path_factory.mktemp("littered") / "run"
    folder, config = invented_run(path, Invented(num_prompts=16, num_candidates=4, quarantine_every=5, share_right=0.5))
    chains = resolve_chains(folder, config)
    ranges = shard_ranges(folder, config.pack)
    for index, units in enumerate(ranges):
        pack_shard(folder, chains, config.pack, index, units)
    write_index(folder, len(ranges))
    write_card(folder, config)
    clean = shutil.copytree(path, path.parent / "clean")
    return clean, path, litter(path)


@pytest.mark.parametrize("command", ["status", "verify --deep", "inspect", "report", "gc", "gc --dry-run"])
def test_commands_say_the_same_beside_foreign_files(littered, command, capsys):
    clean, path, left = littered
    said = []
    for place in (clean, path):
        assert main([*command.split(), "--run", str(place)]) == 0
        said.append(capsys.readouterr().out.replace(str(place), "RUN"))
    assert said[0] == said[1]
    assert untouched(left)


def test_push_sends_what_is_the_runs_own(littered):
    clean, path, _ = littered
    assert set(_pushed(path)) == set(_pushed(clean))
    assert {name.partition("/")[0] for name in _pushed(path)} >= {"README.md", "shards"}


def test_push_says_that_no_hub_answers(littered):
    from commands.runs import open_run

    class ConnectError(Exception):
        """The hub's client has an error of its own for it, which is no OSError."""

    class Away:
        def create_repo(self, *_, **__):
            raise ConnectError("Name or service not known")

    with pytest.raises(WorkFailedError, match=r"does not answer: ConnectError: Name or service[\s\S]*again goes on"):
        push(Away(), open_run(str(littered[0]))[0], "me/pairs", private=True)


def _pushed(path: Path) -> list[str]:
    from commands.runs import open_run

    class Hub:
        def create_repo(self, *_, **__):
            self.sent: list[str] = []

        def create_commit(self, repo, operations, **_):
            self.sent += [operation.path_in_repo for operation in operations]

    hub = Hub()
    push(hub, open_run(str(path))[0], "me/pairs", private=True)
    return hub.sent


def test_trainers_read_each_of_a_runs_shards_once_and_verify_names_a_copy(littered, capsys):
    clean, path, _ = littered
    (tar,) = (clean / "shards").glob("*.tar")
    copy = path / "shards" / "genref_000000 (conflicted copy 2026-01-01).tar"
    copy.write_bytes(tar.read_bytes())
    try:
        for place in (path, path / "shards"):
            assert open_index(str(place)).shards == ("genref_000000.tar",)
        assert open_index(str(copy)).shards == (copy.name,)
        assert main(["verify", "--run", str(path)]) == 1
        said = capsys.readouterr().err
        assert f"{copy.name}: no shard of this run, though loaders would read it; move it away, or delete it" in said
        assert "--check-blocks" not in said
    finally:
        copy.unlink()


def test_a_toy_run_goes_on_and_is_retried_beside_foreign_files(failed, undisturbed):
    left = litter(failed)
    assert run(failed)
    assert verify(*open_run(str(failed)), deep=True) == []
    assert collect_garbage(*open_run(str(failed)), keep="paired").num_blocks == 0
    assert clear_quarantine(*open_run(str(failed))) == [1]
    assert run(failed)
    assert untouched(left)
    own = {name: data for name, data in shards(failed).items() if failed / "shards" / name not in left}
    assert own == shards(undisturbed)


# Entries


ENTRY = "quarantine/draw_squares/000001-002.json"
GOOD_ENTRY = {"stage": "draw_squares", "key": "0" * 16, "unit": 1, "row": 2, "error": "", "traceback": ""}
CONTENTS = {
    "no JSON": b"{",
    "empty": b"",
    "binary": b"\xff\xfe\x00",
    "deep": b"[" * 100_000,
    "a list": b"[1, 2]",
    "null": b"null",
    "a number": b"7",
    "other fields": b'{"what": "ever"}',
    **{
        f"{name} {value!r}": encode_checked(GOOD_ENTRY | {name: value})
        for name, value in (
            ("stage", "../../x"),
            ("stage", None),
            ("stage", ["draw_squares"]),
            ("key", "../../../x"),
            ("key", 4),
            ("unit", "1"),
            ("unit", -1),
            ("unit", 10**30),
            ("row", None),
            ("row", {"a": 1}),
            ("error", 3),
            ("traceback", ["a"]),
        )
    },
}


@pytest.mark.parametrize("name", CONTENTS)
def test_an_entry_that_does_not_read_or_lies_ends_nothing_and_leads_nowhere(failed, undisturbed, tmp_path, name):
    outside = tmp_path / "x" / "000001-002.json"
    outside.parent.mkdir()
    outside.write_text("not the run's")
    (failed / ENTRY).write_bytes(CONTENTS[name])
    folder, config = open_run(str(failed))
    (row,) = quarantined_rows(folder, config)
    assert (row.unit, row.row, row.prompt_id, row.stage) == (1, 2, "p006", "draw_squares")
    verify(folder, config, deep=True)
    assert run(failed)
    assert clear_quarantine(folder, config) == [1]
    assert not (failed / ENTRY).exists()
    assert run(failed)
    assert verify(folder, config, deep=True) == []
    assert shards(failed) == shards(undisturbed)
    assert outside.exists()


@pytest.mark.parametrize("name", ["no JSON", "a list", "stage '../../x'", "other fields"])
def test_a_report_goes_without_a_traceback_that_does_not_read(tmp_path, name, capsys):
    path = tmp_path / "run"
    invented_run(path, Invented(num_prompts=8, num_candidates=2, quarantine_every=5))
    for entry in (path / "quarantine" / "ground_objects").iterdir():
        entry.write_bytes(CONTENTS[name])
    for command in ("report", "status", "inspect"):
        assert main([command, "--run", str(path)]) == 0
    assert main(["verify", "--run", str(path)]) == 1
    assert "its traceback, is" in capsys.readouterr().err or name == "stage '../../x'"


def test_rows_whose_entries_are_lost_are_retried_all_the_same(failed, undisturbed):
    """As after a fork that was killed before it took them along, or a quarantine that somebody cleared away."""
    shutil.rmtree(failed / "quarantine")
    assert "is in quarantine, and quarantine/draw_squares/000001-002.json, its traceback, is missing" in "".join(
        verify(*open_run(str(failed)), deep=False)
    )
    assert run(failed)
    assert clear_quarantine(*open_run(str(failed))) == [1]
    assert run(failed)
    assert shards(failed) == shards(undisturbed)


def test_index_and_sidecars_of_any_shape_are_made_again(finished, undisturbed):
    for content in ("[]", "3", json.dumps({"num_samples": "x", "shards": 3}), "[" * 100_000):
        for name in ("index.json", "genref_000000.json", "genref_000001.json"):
            (finished / "shards" / name).write_text(content)
        assert verify(*open_run(str(finished)), deep=True)
        assert run(finished)
        assert shards(finished) == shards(undisturbed)
