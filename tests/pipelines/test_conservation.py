"""`verify` names whatever was tampered with."""

import json
from dataclasses import replace

import pytest

from pipelines.conservation import tally, verify
from pipelines.jobs import resolve_chains
from schemas.blocks import encode_block, footer_of
from schemas.records import Rejection
from schemas.shards import decode_shard, encode_shard
from tests.support.toy_job import open_run
from tests.support.toy_runs import blocks, edit_json, run


def problems(path, deep=False) -> str:
    return "\n".join(verify(*open_run(str(path)), deep=deep))


def rewrite(path, step_index: int, unit: int, change) -> None:
    """Write a block again with changed rows, and a footer that fits them."""
    folder, config = open_run(str(path))
    step = resolve_chains(folder, config)["rule"][step_index]
    footer, rows = folder.read_block(step.name, step.key, unit)
    makes = step.link.stage.makes_images
    if makes:
        rows = folder.with_images(rows, step.name, step.key, unit)
    rows = change(rows)
    folder.write_block(footer_of(step.name, step.key, unit, footer.input_hash, rows), rows, with_images=makes)


def change_first(make):
    """Changes the first row that has a shipped pair."""

    def change(rows):
        number = next(i for i, row in enumerate(rows) if row.shipped_pairs)
        return [make(row) if i == number else row for i, row in enumerate(rows)]

    return change


def without_images(row):
    return replace(row, candidates=tuple(replace(c, image=None) for c in row.candidates))


def test_a_missing_block_is_named(finished):
    blocks(finished, "check_colors")[3].unlink()
    assert "unit 3, check_colors: the block is missing" in problems(finished)


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_row_dropped_from_a_block_is_named(finished, step):
    rewrite(finished, step, 1, lambda rows: rows[:2] + rows[3:])
    assert "unit 1, " in problems(finished)
    assert "its rows are not the unit's prompts" in problems(finished)


def test_rows_in_another_order_are_named(finished):
    rewrite(finished, 2, 1, lambda rows: rows[::-1])
    assert "unit 1, select_pairs: its rows are not the unit's prompts" in problems(finished)


def test_a_dropped_candidate_is_named(finished):
    rewrite(finished, 1, 0, lambda rows: [replace(row, candidates=row.candidates[1:]) for row in rows])
    assert "unit 0, check_colors: candidate 0 of row 2 is lost" in problems(finished)


def test_a_candidate_counted_twice_is_named(finished):
    rewrite(finished, 2, 0, lambda rows: [replace(r, candidates=r.candidates + r.candidates[:1]) for r in rows])
    assert "unit 0, select_pairs: two candidates of row 0 have the same number" in problems(finished)


def test_a_candidate_that_changed_on_the_way_is_named(finished):
    def other_image(row):
        return replace(row, candidates=(replace(row.candidates[0], image_sha256="0" * 64), *row.candidates[1:]))

    rewrite(finished, 2, 0, change_first(other_image))
    assert "changed on the way" in problems(finished)


def test_a_prompt_with_another_text_is_named(finished):
    rewrite(finished, 0, 0, lambda rows: [replace(rows[0], prompt=replace(rows[0].prompt, text="other")), *rows[1:]])
    assert "unit 0, check_colors: made from other rows than those before it hold now" in problems(finished)


def test_prompts_that_changed_after_the_fact_are_named(finished):
    folder, _ = open_run(str(finished))
    rows = list(folder.all_prompts())
    rows[5] = replace(rows[5], prompt=replace(rows[5].prompt, text="a green square"))
    type(folder).create(str(finished), folder.info, rows)
    assert "unit 1, draw_squares: made from other rows than those before it hold now" in problems(finished)


def test_a_pair_dropped_from_the_blocks_is_named(finished):
    rewrite(finished, 2, 0, change_first(lambda row: replace(row, pairs=row.pairs[1:])))
    text = problems(finished)
    assert "is in the shard and not in the blocks" in text
    assert "shards/index.json: says" in text


def test_a_prompt_that_is_neither_shipped_nor_rejected_is_named(finished):
    rewrite(finished, 2, 0, change_first(lambda row: replace(row, pairs=())))
    assert "is neither shipped, rejected nor in quarantine" in problems(finished)


def test_a_pair_of_candidates_that_are_not_there_is_named(finished):
    rewrite(finished, 2, 0, change_first(lambda row: replace(row, pairs=(replace(row.pairs[0], bad=77),))))
    assert "names candidates that are not there" in problems(finished)


def test_a_rejected_prompt_whose_pair_is_in_a_shard_is_named(finished):
    rewrite(finished, 2, 0, change_first(lambda row: replace(row, rejection=Rejection("select_pairs", "too_easy"))))
    assert "is in the shard and not in the blocks" in problems(finished)


def test_an_image_with_other_bytes_is_named_by_a_deep_look(finished):
    """The bytes as they would come out of a broken disk that the page checksums did not catch."""
    folder, config = open_run(str(finished))
    step = resolve_chains(folder, config)["rule"][0]
    footer, rows = folder.read_block(step.name, step.key, 2)
    rows = folder.with_images(rows, step.name, step.key, 2)
    first, second, *rest = rows[1].candidates
    rows[1] = replace(rows[1], candidates=(replace(first, image=second.image), second, *rest))
    folder.storage.commit(folder.block_path(step.name, step.key, 2), encode_block(footer, rows, with_images=True))
    assert problems(finished) == ""
    assert "unit 2, draw_squares" in problems(finished, deep=True)
    assert "image of row 1 candidate 0 has other bytes than it was made with" in problems(finished, deep=True)
    assert run(finished, check_blocks=True)
    assert problems(finished, deep=True) == ""


def test_a_missing_image_of_a_pair_is_named_by_a_deep_look(finished):
    rewrite(finished, 0, 0, lambda rows: [without_images(row) for row in rows])
    assert problems(finished) == ""
    assert "unit 0: image of row" in problems(finished, deep=True)
    assert "is missing" in problems(finished, deep=True)


def test_a_quarantine_entry_that_is_gone_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_FAIL", "p006")
    run(tmp_path / "run")
    assert problems(tmp_path / "run") == ""
    (tmp_path / "run" / "quarantine" / "draw_squares" / "000001-002.json").unlink()
    assert "p006 is in quarantine, and quarantine/draw_squares/000001-002.json" in problems(tmp_path / "run")


# Shards

SHARD = "shards/genref_000001.tar"


def reshard(path, change) -> None:
    file = path / SHARD
    file.write_bytes(encode_shard(change(decode_shard(file.read_bytes(), "shard"))))


def test_a_pair_removed_from_a_shard_is_named(finished):
    removed = decode_shard((finished / SHARD).read_bytes(), "shard")[1].key
    reshard(finished, lambda samples: samples[:1] + samples[2:])
    assert f"{SHARD}: pair {removed} is in the blocks and not in the shard" in problems(finished)
    assert f"{SHARD}: its bytes are not those that were packed" in problems(finished)


def test_a_sample_added_to_a_shard_is_named(finished):
    reshard(finished, lambda samples: [*samples, replace(samples[0], key="u000099-r000-p00")])
    assert f"{SHARD}: sample u000099-r000-p00 is in the shard and not in the blocks" in problems(finished)


def test_a_changed_member_is_named_by_a_deep_look(finished):
    key = decode_shard((finished / SHARD).read_bytes(), "shard")[0].key
    reshard(finished, lambda samples: [replace(samples[0], reflection="Other."), *samples[1:]])
    assert f"member {key}.reflection.txt has other bytes" in problems(finished, deep=True)


def test_a_cut_shard_is_named(finished):
    file = finished / SHARD
    file.write_bytes(file.read_bytes()[:1000])
    assert f"{SHARD}: no whole tar file" in problems(finished)
    file.write_bytes(file.read_bytes()[:0])
    assert f"{SHARD}: no whole tar file" in problems(finished)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_samples": 99}, "its sidecar says 99 samples"),
        ({"num_samples_by_subset": {"rule": 99}}, "its sidecar says {'rule': 99} by subset"),
        ({"num_samples_by_subset": {"general": 1}}, "by subset"),
        ({"num_bytes": 5}, "5 expected"),
        ({"sha256": "0" * 64}, "its bytes are not those that were packed"),
        ({"inputs": "0" * 16}, "packed from other blocks"),
        ({"name": "genref_000000.tar"}, "its sidecar speaks of genref_000000.tar"),
        ({"end_unit": 9}, "units 2 to 9"),
        ({"members_sha256": {}}, "its members are not those that its sidecar lists"),
    ],
)
def test_a_changed_field_of_a_sidecar_is_named_and_healed_by_checking_blocks(finished, undisturbed, changes, named):
    edit_json(finished / "shards" / "genref_000001.json", **changes)
    assert SHARD in problems(finished)
    assert named in problems(finished)
    assert run(finished, check_blocks=True)
    assert problems(finished, deep=True) == ""


def test_a_changed_index_is_named(finished):
    index = finished / "shards" / "index.json"
    content = json.loads(index.read_text())
    edit_json(index, num_samples=99)
    assert "shards/index.json: says 99 samples" in problems(finished)
    content["shards"][0]["sha256"] = "0" * 64
    index.write_text(json.dumps(content))
    assert "shards/index.json: does not list the shards as their sidecars describe them" in problems(finished)
    for broken in ("[]", "{"):
        index.write_text(broken)
        assert "shards/index.json" in problems(finished)


def test_a_shard_that_is_not_of_this_run_is_named(finished):
    (finished / "shards" / "genref_000099.tar").write_bytes((finished / SHARD).read_bytes())
    said = problems(finished)
    assert said.startswith("shards/genref_000099.tar: no shard of this run, though loaders would read it")
    assert said.endswith("`resume` leaves it there: move it away, or delete it")


# Counting


def test_prompts_are_pending_until_their_last_block_is_there(finished):
    blocks(finished, "select_pairs")[4].unlink()
    counts = tally(*open_run(str(finished))).as_json()
    assert counts["prompts"]["pending"] == 2
    assert sum(counts["prompts"].values()) == 18


def test_counts_come_from_blocks_and_not_from_counters(finished):
    before = tally(*open_run(str(finished))).as_json()
    edit_json(finished / "shards" / "index.json", num_samples=99)
    assert tally(*open_run(str(finished))).as_json() == before
    rewrite(finished, 2, 0, change_first(lambda row: replace(row, rejection=Rejection("select_pairs", "too_easy"))))
    after = tally(*open_run(str(finished))).as_json()
    assert after["prompts"]["shipped"] == before["prompts"]["shipped"] - 1
    assert after["rejected_by_reason"]["too_easy"] == before["rejected_by_reason"].get("too_easy", 0) + 1
    assert after["candidates"]["rejected"] == before["candidates"]["rejected"] + 4
