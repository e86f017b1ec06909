import shutil
from dataclasses import replace

import pytest

from pipelines.conservation import verify
from pipelines.garbage import collect_garbage
from pipelines.pack_shards import PackShardsConfig
from pipelines.quarantine import clear_quarantine
from pipelines.stages.select_pairs import SelectPairsConfig
from pipelines.upkeep import (
    check_models,
    copy_valid_blocks,
    differing_fields,
)
from schemas.errors import ForeignRunError
from tests.support.toy_job import CheckConfig, DrawConfig, ToyConfig, create, open_run
from tests.support.toy_runs import blocks, calls, run, shards, stamps

OTHER_PAIRS = ToyConfig(select=SelectPairsConfig(hard_max=0.2, easy_min=0.8, pairs_per_prompt=1))


def fork(source, target, config: ToyConfig) -> int:
    folder = create(str(target), config)
    return copy_valid_blocks(*open_run(str(source)), folder, config)


def problems(path) -> list[str]:
    return verify(*open_run(str(path)), deep=True)


# Forks


def test_a_fork_takes_valid_blocks_by_hard_link_and_only_those(undisturbed, tmp_path, calls_file):
    assert fork(undisturbed, tmp_path / "fork", OTHER_PAIRS) == 10
    for stage in ("draw_squares", "check_colors"):
        for mine, other in zip(blocks(tmp_path / "fork", stage), blocks(undisturbed, stage), strict=True):
            assert mine.samefile(other)
    assert blocks(tmp_path / "fork", "select_pairs") == []
    linked = stamps(tmp_path / "fork")
    assert run(tmp_path / "fork")
    assert calls(calls_file) == []  # not one image was drawn or checked
    assert linked.items() <= stamps(tmp_path / "fork").items()
    assert problems(tmp_path / "fork") == []


def test_a_fork_makes_what_a_run_of_its_own_would_have_made(undisturbed, tmp_path):
    fork(undisturbed, tmp_path / "fork", OTHER_PAIRS)
    run(tmp_path / "fork")
    run(tmp_path / "alone", OTHER_PAIRS)
    assert shards(tmp_path / "fork") == shards(tmp_path / "alone")
    assert shards(tmp_path / "fork") != shards(undisturbed)


def test_a_fork_with_another_check_keeps_images_alone(undisturbed, tmp_path):
    assert fork(undisturbed, tmp_path / "fork", ToyConfig(check=CheckConfig(threshold=40))) == 5
    assert {path.parts[-4] for path in blocks(tmp_path / "fork")} == {"draw_squares"}


@pytest.mark.parametrize(
    "config",
    [ToyConfig(draw=DrawConfig(size_px=9)), ToyConfig(seed=1), ToyConfig(unit_size=3), ToyConfig(num_threads=2)],
    ids=["drawing", "seed", "unit size", "threads"],
)
def test_a_fork_whose_root_or_first_stage_differs_takes_nothing(undisturbed, tmp_path, config):
    assert fork(undisturbed, tmp_path / "fork", config) == 0
    assert blocks(tmp_path / "fork") == []


def test_a_fork_that_differs_in_how_it_is_computed_or_packed_takes_everything(undisturbed, tmp_path, calls_file):
    config = ToyConfig(draw=DrawConfig(micro_batch=2), pack=PackShardsConfig(units_per_shard=1, image_format="jpg"))
    assert fork(undisturbed, tmp_path / "fork", config) == 15
    assert run(tmp_path / "fork")
    assert calls(calls_file) == []
    assert problems(tmp_path / "fork") == []
    assert sum(name.endswith(".json") for name in shards(tmp_path / "fork")) == 6


def test_a_fork_with_fewer_or_more_prompts_takes_the_units_that_are_the_same(undisturbed, tmp_path):
    assert fork(undisturbed, tmp_path / "fewer", ToyConfig(num_prompts=9)) == 3 * 2
    assert fork(undisturbed, tmp_path / "more", ToyConfig(num_prompts=30)) == 3 * 4
    assert run(tmp_path / "more")
    assert problems(tmp_path / "more") == []


def test_a_fork_takes_the_quarantine_of_its_blocks_with_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_FAIL", "p006")
    run(tmp_path / "run")
    fork(tmp_path / "run", tmp_path / "fork", OTHER_PAIRS)
    assert run(tmp_path / "fork")
    assert problems(tmp_path / "fork") == []
    monkeypatch.delenv("TOY_FAIL")
    assert clear_quarantine(*open_run(str(tmp_path / "fork"))) == [1]
    run(tmp_path / "fork")
    run(tmp_path / "alone", OTHER_PAIRS)
    assert shards(tmp_path / "fork") == shards(tmp_path / "alone")


def test_work_in_a_fork_does_not_touch_its_source(undisturbed, tmp_path):
    source = shutil.copytree(undisturbed, tmp_path / "source")
    before = {path: path.read_bytes() for path in blocks(source)}
    fork(source, tmp_path / "fork", ToyConfig())
    run(tmp_path / "fork")
    collect_garbage(*open_run(str(tmp_path / "fork")), keep="paired")
    blocks(tmp_path / "fork", "check_colors")[0].unlink()
    assert {path: path.read_bytes() for path in blocks(source)} == before


# Garbage


def with_config(path, config: ToyConfig) -> None:
    """The same folder under another configuration, as after an edit of run.json by a newer version."""
    create(str(path), config)


def removed(path, keep="all") -> tuple[int, int]:
    """How many blocks and images `gc` removes."""
    found = collect_garbage(*open_run(str(path)), keep=keep)
    return found.num_blocks, found.num_images


def test_gc_of_a_finished_run_removes_nothing(finished):
    before = stamps(finished)
    assert removed(finished) == (0, 0)
    assert stamps(finished) == before


def test_gc_removes_blocks_under_keys_nobody_refers_to_and_no_others(finished):
    used = stamps(finished)
    with_config(finished, OTHER_PAIRS)
    run(finished)
    other = stamps(finished)
    assert len(other) == 20
    with_config(finished, ToyConfig())
    assert removed(finished) == (5, 0)
    assert stamps(finished) == used
    (finished / "stages" / "old_stage" / ("0" * 16) / "000").mkdir(parents=True)
    (finished / "stages" / "old_stage" / ("0" * 16) / "000" / "000000.parquet").write_bytes(b"x")
    assert removed(finished) == (1, 0)


def test_gc_that_keeps_paired_images_keeps_the_run_sound_and_its_shards_the_same(finished, undisturbed):
    size = sum(path.stat().st_size for path in blocks(finished, "draw_squares"))
    num_blocks, num_images = removed(finished, "paired")
    assert num_blocks == 0
    assert num_images > 18
    assert sum(path.stat().st_size for path in blocks(finished, "draw_squares")) < size
    assert problems(finished) == []
    shutil.rmtree(finished / "shards")
    assert run(finished)
    assert shards(finished) == shards(undisturbed)
    assert problems(finished) == []
    assert removed(finished, "paired") == (0, 0)


def test_gc_that_keeps_paired_images_leaves_what_retry_needs(tmp_path, undisturbed, monkeypatch):
    path = tmp_path / "run"
    monkeypatch.setenv("TOY_FAIL_CHECK", "p006")
    run(path)
    monkeypatch.delenv("TOY_FAIL_CHECK")
    assert collect_garbage(*open_run(str(path)), keep="paired").num_images > 0
    assert clear_quarantine(*open_run(str(path))) == [1]
    assert run(path)
    assert shards(path) == shards(undisturbed)


def test_gc_passes_over_what_is_unfinished_or_broken(finished):
    images, pairs = blocks(finished, "draw_squares"), blocks(finished, "select_pairs")
    pairs[0].unlink()
    images[1].unlink()
    images[2].write_bytes(b"broken")
    kept = images[0].read_bytes()
    collect_garbage(*open_run(str(finished)), keep="paired")
    assert images[0].read_bytes() == kept
    assert images[2].read_bytes() == b"broken"


# Differences


def test_differing_fields_are_named_with_both_values():
    old = {"a": 1, "b": {"c": [1, 2], "d": None}, "e": 0}
    new = {"a": 1, "b": {"c": (1, 3), "d": None}, "f": 0}
    assert differing_fields(old, new) == ["b.c: [1, 2] -> (1, 3)", "e: 0 -> None", "f: None -> 0"]


def test_lists_and_tuples_do_not_differ_at_any_depth():
    assert differing_fields({"a": [["red", [1, 2]]]}, {"a": (("red", (1, 2)),)}) == []


def test_other_weights_than_those_a_run_was_started_with_are_refused(tmp_path):
    folder = create(str(tmp_path / "run"), ToyConfig())
    folder.info = replace(folder.info, digests={"zoo/a": "1", "zoo/b": "2"})
    check_models(folder, {"zoo/a": "1", "zoo/b": "2"})
    with pytest.raises(ForeignRunError, match=r"contents of zoo/b are not those.*\n.*--fork"):
        check_models(folder, {"zoo/a": "1", "zoo/b": "3"})
