"""The condenser: pairs from tables and from a run's length subset, and an adapter that the condensing stage asks."""

import json
from dataclasses import replace

import pytest
import torch

from commands.main import main
from inference.vlm.vlm import VlmConfig
from pipelines.stages.condense_prompts import CondensePrompts, CondensePromptsConfig
from recipes import micro
from schemas.errors import InputError
from schemas.records import PromptRecord, PromptRow
from tests.support.plain_shards import write_shards
from tests.support.tiny_vlm import save_tiny_vlm
from trainers.condenser import CondenserConfig, open_training
from trainers.loop import LoopConfig, OptimizerConfig
from trainers.text_pairs import TextPair, TextPairs, hold_out_pairs, read_text_pairs

WORDS = [(color, shape) for color in ("red", "blue", "green", "white") for shape in ("star", "ring", "cross", "disc")]
PAIRS = [TextPair(f"a photo of a {c} {s} and nothing else at all", f"a photo of a {c} {s}") for c, s in WORDS]


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    return save_tiny_vlm(tmp_path_factory.mktemp("condenser") / "vlm")


def write_jsonl(path, pairs, long="long", short="short"):
    path.write_text("".join(json.dumps({long: p.prompt, short: p.short}) + "\n" for p in pairs))
    return path


def config(vlm, data, out, **changes):
    loop = LoopConfig(steps=4, batch_size=8, micro_batch=4, evaluate_every=4, checkpoint_every=1, report_every=1)
    return replace(
        micro.condenser_training(),
        data=str(data),
        out=out,
        model=CondenserConfig(str(vlm), "micro/condense", rank=8),
        optimizer=OptimizerConfig("adamw", 1e-2, max_gradient_norm=1.0),
        loop=replace(loop, **changes),
        held_out_share=0.2,
        num_written=2,
    )


def test_pairs_come_from_tables_by_the_names_of_their_fields(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    write_jsonl(tmp_path / "pairs-2.jsonl", PAIRS[:3], "detailed", "brief")
    rows = [{"detailed": p.prompt, "brief": p.short, "source": "x"} for p in PAIRS[2:5]]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs-10.parquet")
    assert read_text_pairs(str(tmp_path), "detailed", "brief") == PAIRS[:5]  # the third, which both have, once
    assert read_text_pairs(f"{tmp_path}/*.parquet", "detailed", "brief") == PAIRS[2:5]
    with pytest.raises(InputError, match=r"pairs-2\.jsonl:1: no text 'long' among detailed, brief"):
        read_text_pairs(str(tmp_path), "long", "short")
    (tmp_path / "pairs-2.jsonl").write_text('{"detailed": "a", "brief": "b"}\n\n{"detailed"\n')
    with pytest.raises(InputError, match=r"pairs-2\.jsonl:3: no JSON"):
        read_text_pairs(str(tmp_path), "detailed", "brief")
    with pytest.raises(InputError, match="no text pairs there"):
        read_text_pairs(str(tmp_path / "none"), "long", "short")


def test_pairs_come_from_the_length_subset_of_a_run(tmp_path):
    write_shards(tmp_path / "run" / "shards", ["length"] * 4, per_shard=3, meta={"condensed": "short"})
    write_shards(tmp_path / "others" / "shards", ["rule"] * 3)
    (tmp_path / "run" / "prompts.parquet").write_bytes(b"of the run itself")
    found = read_text_pairs(str(tmp_path / "run"), "long", "short")
    assert found == [TextPair(f"prompt {n}", "short") for n in range(4)]
    with pytest.raises(InputError, match="no text pairs there"):
        read_text_pairs(str(tmp_path / "others"), "long", "short")


def test_ranks_share_the_pairs_and_each_comes_once_before_one_comes_again():
    pairs = TextPairs(PAIRS, 3)
    alone = [p for batch in pairs.batches(0, 32, 8, 0, 1) for p in batch]
    assert set(alone[:16]) == set(alone[16:]) == set(PAIRS)
    assert alone[:16] != alone[16:]
    apart = [list(TextPairs(PAIRS, 3).batches(8, 24, 8, rank, 2)) for rank in (0, 1)]
    together = [p for batch in zip(*apart, strict=True) for both in zip(*batch, strict=True) for p in both]
    assert together == alone[8:24]
    training, held = hold_out_pairs(PAIRS, 0.2, 0)
    assert set(training) | set(held) == set(PAIRS)
    assert len(held) == 3
    assert hold_out_pairs(PAIRS[:1], 0.2, 0) == (PAIRS[:1], [])


def test_it_fits_and_the_condensing_stage_asks_its_adapter(vlm, tmp_path):
    data = write_jsonl(tmp_path / "pairs.jsonl", PAIRS)
    open_training(config(vlm, data, tmp_path, steps=60, evaluate_every=60, checkpoint_every=60)).run()
    curve = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    losses = [row["loss/length"] for row in curve if "loss" in row]
    assert losses[-1] < 0.3 * losses[0]
    assert len((tmp_path / "samples" / "condensed_000060.jsonl").read_text().splitlines()) == 2
    asked = replace(micro.vlm(), model=str(tmp_path / "condenser"))
    stage = CondensePrompts(CondensePromptsConfig(asked, "micro/condense", max_new_words=1.0), 0)
    stage.load()
    rows = stage([PromptRow(PromptRecord(f"length-{i}", p.prompt, "length")) for i, p in enumerate(PAIRS)])
    assert sum(row.condensed == pair.short for row, pair in zip(rows, PAIRS, strict=True)) >= 8
    assert isinstance(asked, VlmConfig)


def test_a_restart_changes_no_number(vlm, tmp_path):
    data = write_jsonl(tmp_path / "pairs.jsonl", PAIRS)

    def quiet(out, **changes):
        return replace(config(vlm, data, tmp_path / out, **changes), num_written=0)

    whole = open_training(quiet("a"))
    whole.run()
    open_training(quiet("b", steps=2)).run()
    again = open_training(quiet("b"))
    assert again.step == 2
    again.run()
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters, again.parameters, strict=True))


def test_the_command_trains_and_plans(vlm, tmp_path, capsys):
    data = write_jsonl(tmp_path / "pairs.jsonl", PAIRS)
    flags = ["--model.base-model", str(vlm), "--loop.steps", "1", "--num-written", "0", "--loop.batch-size", "4"]
    assert main(["condenser", "--data", str(data), "--out", str(tmp_path / "out"), *flags]) == 0
    assert (tmp_path / "out" / "condenser" / "adapter_config.json").exists()
    assert main(["condenser", "--preset", "flux", "--plan"]) == 0
    assert "(h100): fits" in capsys.readouterr().out
