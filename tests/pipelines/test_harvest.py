"""Traces of a search become a dataset that verifies, trains, and knows nothing of the judge or of any benchmark."""

import json
import shutil
from typing import Any, cast

import pytest

from commands.main import main
from commands.runs import open_run
from inference.flux.condition_config import ConditionConfig
from microworld.family import micro_flux
from pipelines.evaluation import read_rows
from pipelines.jobs import resolve_chains
from pipelines.run_folder import RunFolder
from pipelines.search_job import SearchJobConfig
from schemas.images import decode_image
from schemas.shards import decode_shard

SEARCH = (
    *("--prompts", "composed", "--num-prompts", "10", "--unit-size", "4", "--seed", "3", "--num-threads", "1"),
    *("--search.width", "2", "--search.depth", "3", "--search.strategy", "reflection", "--quiet"),
    *("--tools.generator.flux.num-steps", "2", "--preset", "micro-paper"),
)
# A random corrector betters little: every image that scores higher than its parent counts here.
ANY_GAIN = ("--harvest.max-bad", "99", "--harvest.min-good", "-99", "--harvest.min-gain", "0.05", "--quiet")


@pytest.fixture(scope="module")
def corrector(tmp_path_factory):
    import torch

    from inference.flux.conditioning import ConditionedFlux
    from inference.flux.corrector import CorrectorDescription, save_corrector
    from inference.flux.generator import FluxGenerator

    condition = ConditionConfig(rank=4, alpha=4.0)
    model = ConditionedFlux(FluxGenerator(micro_flux()).pipeline.transformer, condition)
    torch.manual_seed(0)
    for parameter in model.lora.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    path = tmp_path_factory.mktemp("corrector")
    save_corrector(path, model, CorrectorDescription(condition, 32, "micro/flux"))
    return path


@pytest.fixture(scope="module")
def searched(corrector, tmp_path_factory):
    run = tmp_path_factory.mktemp("searched") / "run"
    assert main(["search", "--run", str(run), *SEARCH, "--tools.corrector.flux.lora", str(corrector)]) == 0
    return run


@pytest.fixture(scope="module")
def harvest(searched, tmp_path_factory):
    out = tmp_path_factory.mktemp("harvest") / "run"
    assert main(["harvest", "--run", str(searched), "--out", str(out), *ANY_GAIN]) == 0
    return out


def opened(run) -> tuple[RunFolder, SearchJobConfig]:
    """A search's run."""
    folder, config = open_run(str(run))
    assert isinstance(config, SearchJobConfig)
    return folder, config


def samples(run):
    return [s for tar in sorted((run / "shards").glob("*.tar")) for s in decode_shard(tar.read_bytes(), tar.name)]


def test_pairs_are_what_the_corrector_made_better_by_a_reflection(searched, harvest):
    folder, config = opened(searched)
    traces = {row.prompt.prompt_id: row for row in read_rows(folder, config, with_images=True) if row}
    found = samples(harvest)
    assert found
    for sample in found:
        candidates = {c.image_sha256: c for c in traces[sample.meta["prompt_id"]].candidates}
        good, bad = (candidates[sample.meta[side]["image_sha256"]] for side in ("good", "bad"))
        assert good.search.parent == bad.index
        assert good.search.reflection == sample.reflection
        assert sample.meta["good_score"] == pytest.approx(good.search.score)
        assert good.search.score - bad.search.score >= 0.05
        assert (decode_image(sample.good_image).shape, sample.subset) == ((32, 32, 3), "rule")
        assert sample.meta["annotator"] == "micro/vlm"


def test_nothing_of_the_judge_is_in_it(searched, harvest):
    for sample in samples(harvest):
        assert sample.meta["good"]["check"] is None
        assert sample.meta["bad"]["check"] is None
    # ... and without the judge's blocks the harvest is the same.
    blind = searched.parent / "blind"
    shutil.copytree(searched, blind)
    shutil.rmtree(blind / "stages" / "judge_candidates")
    out = searched.parent / "blind_harvest"
    assert main(["harvest", "--run", str(blind), "--out", str(out), *ANY_GAIN]) == 0
    assert [t.read_bytes() for t in sorted((out / "shards").glob("*.tar"))] == [
        t.read_bytes() for t in sorted((harvest / "shards").glob("*.tar"))
    ]


@pytest.mark.parametrize("command", [["verify", "--deep"], ["status"], ["resume", "--quiet"], ["report"]])
def test_a_harvest_is_a_run_like_any_other(harvest, command, capsys):
    assert main([command[0], "--run", str(harvest), *command[1:]]) == 0
    assert capsys.readouterr().out


def test_lost_blocks_and_shards_are_made_again_the_same(harvest, tmp_path):
    again = tmp_path / "run"
    shutil.copytree(harvest, again)
    before = {p.name: p.read_bytes() for p in (again / "shards").iterdir()}
    folder, config = open_run(str(again))
    ((step,),) = resolve_chains(folder, config).values()
    folder.delete_block(step.name, step.key, 1)
    shutil.rmtree(again / "shards")
    assert main(["resume", "--run", str(again), "--quiet"]) == 0
    assert {p.name: p.read_bytes() for p in (again / "shards").iterdir()} == before


def test_an_export_shows_how_the_answer_came_about(searched, tmp_path):
    from pipelines.export_search import best_of, export_search, path_to

    folder, config = opened(searched)
    assert export_search(folder, config, str(tmp_path / "out")) == 10
    for number, row in enumerate(r for r in read_rows(folder, config, with_images=True) if r):
        best = best_of(row.candidates)
        path = path_to(best, row)
        assert path[0].search.parent is None
        assert path[-1] is best
        assert [c.index for c in path[:-1]] == [c.search.parent for c in path[1:]]
        names = sorted((tmp_path / "out" / f"{number:05}" / "samples_path_bestround").iterdir())
        assert [p.read_bytes() for p in names] == [c.image for c in path]


def test_limits_and_partners_are_kept_to(searched, tmp_path):
    out = tmp_path / "best"
    arguments = [*ANY_GAIN, "--harvest.partner", "best", "--harvest.pairs-per-prompt", "1"]
    arguments += ["--harvest.likeness.kind", "pixels"]
    assert main(["harvest", "--run", str(searched), "--out", str(out), *arguments]) == 0
    folder, config = opened(searched)
    best = {
        row.prompt.prompt_id: max(row.candidates, key=lambda c: (c.search.score, -c.index)).image_sha256
        for row in read_rows(folder, config)
        if row
    }
    found = samples(out)
    assert len({s.meta["prompt_id"] for s in found}) == len(found)
    assert all(s.meta["good"]["image_sha256"] == best[s.meta["prompt_id"]] for s in found)
    assert all(0 < s.meta["likeness"] < 1 for s in found)
    strict = tmp_path / "strict"
    assert main(["harvest", "--run", str(searched), "--out", str(strict), "--harvest.min-gain", "99", "--quiet"]) == 4
    assert samples(strict) == []
    assert main(["verify", "--run", str(strict)]) == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--prompts", "micro-dev"], "a search of no benchmark's prompts"),
        (["--tools.verifier.kinds", "judge"], "no say in"),
        (["--search.strategy", "noise"], "a search with reflections"),
    ],
)
def test_searches_that_must_not_train_anything_are_refused(corrector, tmp_path, arguments, says, capsys):
    from commands.arguments import parse_with_preset
    from commands.search import SearchArgs, default_arguments
    from pipelines.new_run import new_run
    from pipelines.search_job import search_prompts

    said = [*SEARCH, "--tools.corrector.flux.lora", str(corrector), *arguments, "--run", str(tmp_path / "search")]
    job = parse_with_preset(SearchArgs, said, "search", default_arguments).job
    rows = list(search_prompts(job))
    new_run(str(tmp_path / "search"), "micro", "search", job, rows, lambda: ({"rule": len(rows)}, {}))
    assert main(["harvest", "--run", str(tmp_path / "search"), "--out", str(tmp_path / "out")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_prompts_of_a_file_that_a_benchmark_has_are_turned_down(searched, tmp_path):
    """A search of a prompt file is harvested, but for what repeats GenEval or a reserved composition."""
    from collections import Counter

    from microworld.scenes.evaluation_split import SPLITS, dev_prompts
    from pipelines.harvest_job import harvest_prompts
    from schemas.records import ObjectClause, PromptRecord, PromptRow

    reserved = next(p for p in dev_prompts() if p.tag == "two_object")
    sealed = SPLITS["micro-hard-test"]()[0]
    everyday = PromptRecord(
        "cat", "a photo of a cat and a dog", "rule", "two_object", (*map(ObjectClause, ("cat", "dog")),)
    )
    folder, _ = opened(searched)

    class Prompts:
        def all_prompts(self):
            yield from folder.all_prompts()
            yield from map(PromptRow, (reserved, sealed, everyday))

    counts = Counter()
    rows = list(harvest_prompts(cast(Any, Prompts()), "micro", counts))
    assert [row.rejection.reason for row in rows if row.rejection] == ["benchmark_prompt"] * 2
    assert counts["rule"] == 13
    assert [row.rejection is None for row in rows[-3:]] == [False, False, True]


def test_a_search_that_is_not_finished_is_said_to_be(searched, tmp_path, capsys):
    half = tmp_path / "half"
    shutil.copytree(searched, half)
    folder, config = opened(half)
    (steps,) = resolve_chains(folder, config).values()
    folder.delete_block("draft_round", steps[2].key, 1)
    code = main(["harvest", "--run", str(half), "--out", str(tmp_path / "out"), *ANY_GAIN])
    assert code == 1
    assert "resume" in capsys.readouterr().err


def test_another_configuration_is_refused(searched, harvest, capsys):
    assert main(["harvest", "--run", str(searched), "--out", str(harvest), "--quiet"]) == 3
    assert "min_gain" in capsys.readouterr().err
    assert main(["harvest", "--run", str(harvest), "--out", str(harvest)]) == 3
    info = json.loads((harvest / "run.json").read_text())
    assert info["job"] == "harvest"
