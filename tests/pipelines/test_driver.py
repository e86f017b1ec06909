import json
import shutil
from dataclasses import replace

import pytest

from pipelines.conservation import tally, verify
from pipelines.jobs import resolve_chains
from pipelines.quarantine import clear_quarantine
from pipelines.stages.select_pairs import SelectPairsConfig
from schemas.blocks import footer_of
from schemas.errors import LeaseHeldError, OutageError, WorkFailedError
from schemas.records import Outcome
from tests.support.toy_job import ToyConfig, create, open_run
from tests.support.toy_runs import blocks, calls, flip, is_free, run, shards, stamps


def problems(path, deep=True) -> list[str]:
    return verify(*open_run(str(path)), deep=deep)


# A whole run


def test_a_finished_run_adds_up(undisturbed):
    assert problems(undisturbed) == []
    counts = tally(*open_run(str(undisturbed))).as_json()
    assert counts["prompts"]["pending"] == counts["prompts"]["quarantined"] == 0
    assert sum(counts["prompts"].values()) == 18
    assert sum(counts["candidates"].values()) == 18 * 4
    assert counts["prompts"]["shipped"] > 5
    assert counts["prompts"]["rejected"] > 0
    assert counts["pairs"]["shipped"] >= counts["prompts"]["shipped"]
    assert counts["cost_by_stage"]["draw_squares"] == {"generations": 72}


def test_what_a_stage_spent_is_counted_for_each_subset(undisturbed):
    folder, config = open_run(str(undisturbed))
    ((subset, steps),) = resolve_chains(folder, config).items()
    counts = tally(folder, config)
    assert counts.spent == {(subset, step.name, step.key): counts.cost[step.name] for step in steps}


def test_a_finished_run_is_left_alone(finished, calls_file):
    before, files = stamps(finished), shards(finished)
    assert run(finished)
    assert calls(calls_file) == []
    assert stamps(finished) == before
    assert shards(finished) == files


def test_two_runs_give_the_same_blocks_and_shards(undisturbed, tmp_path):
    run(tmp_path / "run")
    assert shards(tmp_path / "run") == shards(undisturbed)
    for mine, other in zip(blocks(tmp_path / "run"), blocks(undisturbed), strict=True):
        assert mine.read_bytes() == other.read_bytes()


def test_staged_and_streaming_give_the_same_shards(undisturbed, tmp_path, calls_file):
    run(tmp_path / "run", schedule="staged")
    assert shards(tmp_path / "run") == shards(undisturbed)
    assert [call[0] for call in calls(calls_file)] == ["draw_squares"] * 5 + ["check_colors"] * 5


def test_another_seed_gives_other_shards(undisturbed, tmp_path):
    run(tmp_path / "run", ToyConfig(seed=1))
    assert shards(tmp_path / "run") != shards(undisturbed)


def test_stages_are_loaded_and_threads_set_as_the_configuration_says(tmp_path):
    import torch

    torch.set_num_threads(2)
    run(tmp_path / "run")
    assert torch.get_num_threads() == 1


def test_a_run_without_any_pair_is_complete(tmp_path):
    config = ToyConfig(num_prompts=5, select=SelectPairsConfig(keep_bins=()))
    assert run(tmp_path / "run", config)
    assert problems(tmp_path / "run") == []
    assert sorted(shards(tmp_path / "run")) == ["genref_000000.json", "index.json"]
    assert json.loads(shards(tmp_path / "run")["index.json"]) == {"num_samples": 0, "shards": []}


def test_a_second_driver_is_refused_while_one_works(finished):
    folder, _ = open_run(str(finished))
    from pipelines.lease import Lease

    with Lease(folder.storage), pytest.raises(LeaseHeldError):
        run(finished)


# Resuming


@pytest.mark.parametrize("stage", ["draw_squares", "check_colors", "select_pairs"])
@pytest.mark.parametrize("unit", [0, 4])
def test_a_deleted_block_is_made_again_with_the_same_bytes(finished, undisturbed, stage, unit, calls_file):
    before = stamps(finished)
    victim = blocks(finished, stage)[unit]
    content = victim.read_bytes()
    victim.unlink()
    assert run(finished)
    assert victim.read_bytes() == content
    assert shards(finished) == shards(undisturbed)
    after = stamps(finished)
    assert {path for path in after if after[path] != before[path]} == {victim}
    assert {call[0] for call in calls(calls_file)} <= {stage}


def test_all_blocks_of_a_stage_are_made_again_with_the_same_bytes(finished, undisturbed):
    shutil.rmtree(finished / "stages" / "check_colors")
    assert run(finished)
    assert shards(finished) == shards(undisturbed)
    assert problems(finished) == []


def test_deleted_blocks_and_shards_are_made_again_with_the_same_bytes(finished, undisturbed):
    shutil.rmtree(finished / "stages")
    shutil.rmtree(finished / "shards")
    assert run(finished)
    assert shards(finished) == shards(undisturbed)


@pytest.mark.parametrize("stage", ["draw_squares", "check_colors", "select_pairs"])
@pytest.mark.parametrize("at", [0.02, 0.3, 0.6, 0.9])
def test_a_flipped_bit_in_a_block_is_healed_by_checking_blocks(finished, undisturbed, stage, at):
    victim = blocks(finished, stage)[2]
    content = victim.read_bytes()
    flip(victim, at)
    sound = problems(finished) == []
    assert run(finished, check_blocks=True)
    assert sound or victim.read_bytes() == content
    assert problems(finished) == []
    assert shards(finished) == shards(undisturbed)


@pytest.mark.parametrize("stage", ["draw_squares", "check_colors"])
def test_a_truncated_block_that_is_needed_is_noticed_and_healed_by_resume_alone(finished, undisturbed, stage):
    for path in blocks(finished, "select_pairs"):
        path.unlink()
    victim = blocks(finished, stage)[2]
    content = victim.read_bytes()
    victim.write_bytes(content[:-10])
    assert run(finished)
    assert victim.read_bytes() == content
    assert shards(finished) == shards(undisturbed)


def test_a_broken_image_block_found_while_packing_is_healed_by_resume_alone(finished, undisturbed):
    victim = blocks(finished, "draw_squares")[0]
    victim.write_bytes(victim.read_bytes()[:-10])
    shutil.rmtree(finished / "shards")
    assert run(finished)
    assert shards(finished) == shards(undisturbed)
    assert problems(finished) == []


def test_a_block_made_from_other_rows_is_made_again_when_blocks_are_checked(finished, undisturbed):
    folder, config = open_run(str(finished))
    step = resolve_chains(folder, config)["rule"][1]
    _, rows = folder.read_block(step.name, step.key, 1)
    changed = [replace(row, recovered="by hand") for row in rows]
    folder.write_block(footer_of(step.name, step.key, 1, "0" * 64, changed), changed, with_images=False)
    assert any("made from other rows" in problem for problem in problems(finished))
    assert run(finished, check_blocks=True)
    assert problems(finished) == []
    assert shards(finished) == shards(undisturbed)


def harm_cut_shard(path):
    file = path / "shards" / "genref_000001.tar"
    file.write_bytes(file.read_bytes()[:-2048])


def harm_missing_shard(path):
    (path / "shards" / "genref_000001.tar").unlink()


def harm_missing_sidecar(path):
    (path / "shards" / "genref_000001.json").unlink()


def harm_broken_sidecar(path):
    (path / "shards" / "genref_000001.json").write_text("{")


def harm_missing_index(path):
    (path / "shards" / "index.json").unlink()


@pytest.mark.parametrize(
    "harm", [harm_cut_shard, harm_missing_shard, harm_missing_sidecar, harm_broken_sidecar, harm_missing_index]
)
def test_harm_to_shards_is_healed_by_resume_alone(finished, undisturbed, harm):
    harm(finished)
    assert problems(finished, deep=False)
    before = stamps(finished)
    assert run(finished)
    assert shards(finished) == shards(undisturbed)
    assert stamps(finished) == before


@pytest.mark.parametrize("name", ["genref_000001.tar", "genref_000001.json"])
@pytest.mark.parametrize("at", [0.1, 0.5])
def test_a_flipped_bit_in_a_shard_is_healed_by_checking_blocks(finished, undisturbed, name, at):
    flip(finished / "shards" / name, at)
    run(finished, check_blocks=True)
    assert shards(finished) == shards(undisturbed)


def test_unfinished_files_of_a_killed_driver_are_swept(finished):
    (finished / "shards" / ".tmp-genref_000000.tar-12345678").write_bytes(b"half")
    run(finished)
    assert list(finished.rglob(".tmp-*")) == []


# Failures


def test_a_poison_prompt_is_quarantined_and_all_others_are_done(tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_FAIL", "p006")
    assert run(tmp_path / "run")
    folder, config = open_run(str(tmp_path / "run"))
    counts = tally(folder, config)
    assert counts.prompts[Outcome.QUARANTINED] == 1
    assert counts.prompts[Outcome.PENDING] == 0
    (entry,) = folder.quarantined()
    assert (entry["prompt_id"], entry["stage"], entry["unit"], entry["row"]) == ("p006", "draw_squares", 1, 2)
    assert entry["error"] == "ValueError: the toy cannot do this one"
    assert "Traceback" in entry["traceback"]
    assert problems(tmp_path / "run") == []


@pytest.mark.parametrize("variable", ["TOY_FAIL", "TOY_FAIL_CHECK"])
def test_retry_heals_once_the_cause_is_gone(tmp_path, undisturbed, monkeypatch, variable):
    path = tmp_path / "run"
    monkeypatch.setenv(variable, "p006,p017")
    run(path)
    assert shards(path) != shards(undisturbed)
    kept = {p: s for p, s in stamps(path).items() if p.name not in ("000001.parquet", "000004.parquet")}
    images = stamps(path, "draw_squares")
    monkeypatch.delenv(variable)
    assert clear_quarantine(*open_run(str(path))) == [1, 4]
    assert run(path)
    assert shards(path) == shards(undisturbed)
    assert problems(path) == []
    assert open_run(str(path))[0].quarantined() == []
    assert kept.items() <= stamps(path).items()
    if variable == "TOY_FAIL_CHECK":
        assert stamps(path, "draw_squares") == images


def test_retry_while_the_cause_is_still_there_quarantines_again(tmp_path, monkeypatch):
    path = tmp_path / "run"
    monkeypatch.setenv("TOY_FAIL", "p006")
    run(path)
    before = shards(path)
    assert clear_quarantine(*open_run(str(path))) == [1]
    assert run(path)
    assert len(open_run(str(path))[0].quarantined()) == 1
    assert shards(path) == before


def test_a_retry_that_was_killed_half_way_is_made_whole_by_resume(tmp_path, undisturbed, monkeypatch):
    """Whatever prefix of the deletions of `retry` was done."""
    from schemas.storage import LocalStorage

    monkeypatch.setenv("TOY_FAIL", "p006")
    run(tmp_path / "failed")
    monkeypatch.delenv("TOY_FAIL")
    done = LocalStorage.delete
    for allowed in (1, 3, 4, 5):
        path = shutil.copytree(tmp_path / "failed", tmp_path / f"run{allowed}")
        deleted = []

        def delete(self, name, allowed=allowed, deleted=deleted):
            if len(deleted) == allowed:
                raise KeyboardInterrupt
            deleted.append(name)
            done(self, name)

        with monkeypatch.context() as patch:
            patch.setattr(LocalStorage, "delete", delete)
            try:
                clear_quarantine(*open_run(str(path)))
            except KeyboardInterrupt:
                assert len(deleted) == allowed
        assert run(path)
        assert problems(path) == []
        clear_quarantine(*open_run(str(path)))
        assert run(path)
        assert problems(path) == []
        assert shards(path) == shards(undisturbed)


def test_a_row_that_fails_no_more_when_its_block_is_made_again_is_shipped(tmp_path, undisturbed, monkeypatch):
    """Its shard was packed without it, from blocks of the same key."""
    path = tmp_path / "run"
    monkeypatch.setenv("TOY_FAIL_CHECK", "p006")
    run(path)
    monkeypatch.delenv("TOY_FAIL_CHECK")
    blocks(path, "check_colors")[1].unlink()
    assert run(path)
    assert problems(path) == []
    assert shards(path) == shards(undisturbed)


def test_a_passing_outage_leaves_no_trace(tmp_path, undisturbed, monkeypatch):
    monkeypatch.setenv("TOY_TRANSIENT", "3")
    assert run(tmp_path / "run")
    for mine, other in zip(blocks(tmp_path / "run"), blocks(undisturbed), strict=True):
        assert mine.read_bytes() == other.read_bytes()
    assert not (tmp_path / "run" / "quarantine").exists()


def test_an_outage_that_stays_stops_the_run_and_quarantines_nothing(tmp_path, undisturbed, monkeypatch):
    path = tmp_path / "run"
    monkeypatch.setenv("TOY_TRANSIENT", "99")
    with pytest.raises(OutageError, match="draw_squares: TransientError: the toy endpoint is away"):
        run(path)
    assert blocks(path) == []
    assert not (path / "quarantine").exists()
    assert is_free(path)
    monkeypatch.delenv("TOY_TRANSIENT")
    assert run(path)
    assert shards(path) == shards(undisturbed)


def test_a_stage_that_fails_on_everything_is_an_outage_and_quarantines_nothing(tmp_path, undisturbed, monkeypatch):
    path = tmp_path / "run"
    monkeypatch.setenv("TOY_FAIL", ",".join(f"p{number:03d}" for number in range(18)))
    with pytest.raises(OutageError, match="4 rows failed alike"):
        run(path)
    assert open_run(str(path))[0].quarantined() == []
    monkeypatch.delenv("TOY_FAIL")
    assert run(path)
    assert shards(path) == shards(undisturbed)


def test_running_out_of_memory_gives_the_same_shards_and_marks_every_row(tmp_path, undisturbed, monkeypatch):
    monkeypatch.setenv("TOY_MEMORY", "2")
    assert run(tmp_path / "run")
    assert shards(tmp_path / "run") == shards(undisturbed)
    folder, config = open_run(str(tmp_path / "run"))
    step = resolve_chains(folder, config)["rule"][0]
    for unit in folder.units():
        _, rows = folder.read_block(step.name, step.key, unit)
        assert {row.recovered for row in rows} == {"smaller micro-batch"}


# Barriers

QUANTILES = ToyConfig(select=SelectPairsConfig(difficulty="quantiles"))


def test_a_barrier_is_settled_from_the_whole_run_and_enters_the_keys_after_it(tmp_path):
    path = tmp_path / "run"
    assert run(path, QUANTILES)
    assert problems(path) == []
    folder, config = open_run(str(path))
    (name,) = (f"barriers/{name}" for name in folder.storage.names("barriers"))
    value = folder.read_checked(name)
    assert value["num_prompts"] == 18
    assert 0 <= value["hard_max"] <= value["easy_min"] <= 1
    before = resolve_chains(folder, config)["rule"]
    folder.write_checked(name, value | {"easy_min": 0.99})
    after = resolve_chains(folder, config)["rule"]
    assert [b.key == a.key for b, a in zip(before, after, strict=True)] == [True, True, False]


def test_a_barrier_waits_for_the_last_unit(tmp_path, monkeypatch):
    path = tmp_path / "run"
    monkeypatch.setenv("TOY_FAIL_CHECK", ",".join(f"p{number:03d}" for number in range(16, 18)))
    create(str(path), QUANTILES)
    folder, config = open_run(str(path))
    assert [step.settled for step in resolve_chains(folder, config)["rule"]] == [True, True, False]
    assert problems(path) == [
        *(f"unit {unit}, draw_squares: the block is missing" for unit in range(5)),
        *(f"shard {index}: not packed (no sidecar that reads)" for index in range(3)),
        "shards/index.json: missing",
    ]
    run(path)
    (name,) = folder.storage.names("barriers")
    assert folder.read_checked(f"barriers/{name}")["num_prompts"] == 16


def test_a_barrier_that_does_not_read_is_settled_again_with_the_same_value(tmp_path):
    path = tmp_path / "run"
    run(path, QUANTILES)
    before = shards(path)
    (barrier,) = (path / "barriers").iterdir()
    content = barrier.read_bytes()
    barrier.write_bytes(content[:10])
    assert run(path)
    assert barrier.read_bytes() == content
    assert shards(path) == before


def test_staged_and_streaming_give_the_same_shards_with_a_barrier(tmp_path):
    run(tmp_path / "streaming", QUANTILES)
    run(tmp_path / "staged", QUANTILES, schedule="staged")
    assert shards(tmp_path / "streaming") == shards(tmp_path / "staged")


def test_removed_images_that_are_needed_again_are_asked_for(finished):
    from pipelines.garbage import collect_garbage

    collect_garbage(*open_run(str(finished)), keep="paired")
    blocks(finished, "check_colors")[0].unlink()
    with pytest.raises(WorkFailedError, match=r"gc --keep-candidates paired`\n  delete stages/draw_squares/"):
        run(finished)
    blocks(finished, "draw_squares")[0].unlink()
    assert run(finished)
    assert problems(finished) == []
