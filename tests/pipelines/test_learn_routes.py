"""A finished search whose verifier checked atoms: its page says what holds and what fails, and a table of routes is
learnt from its traces."""

import json
import shutil
from pathlib import Path

import pytest

from commands.main import main
from commands.runs import open_run
from inference.requirements.atoms import failing
from inference.routes import load_routes, tries_in
from inference.search import SearchConfig
from inference.search_tools import SearchToolsConfig
from inference.verifier import VerifierConfig
from inference.vlm.vlm import VlmConfig
from pipelines.evaluation import read_rows
from pipelines.jobs import resolve_chains
from pipelines.search_job import SearchJobConfig
from pipelines.stages.harvest_pairs import mended_flaw
from recipes import catalogue
from schemas.configuration import content_key, output_config, routes_names
from schemas.errors import InputError
from schemas.shards import decode_shard
from tests.support.invented_atoms import in_place_of_verifier_and_critic
from tests.support.page_reader import read_page

SEARCH = (
    *("--prompts", "composed", "--num-prompts", "12", "--unit-size", "4", "--seed", "3", "--num-threads", "1"),
    *("--search.width", "2", "--search.depth", "3", "--search.strategy", "reflection", "--quiet"),
    *("--search.carry", "best", "--search.patience", "1", "--tools.verifier.kinds", "atoms"),
    *("--tools.generator.flux.num-steps", "2", "--tools.critic.kind", "vlm"),
)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    run = tmp_path_factory.mktemp("atoms") / "run"
    patch = in_place_of_verifier_and_critic()
    try:
        assert main(["search", "--run", str(run), *SEARCH]) == 0
    finally:
        patch.undo()
    return run


def rows_of(run):
    folder, config = open_run(str(run))
    assert isinstance(config, SearchJobConfig)
    return [row for row in read_rows(folder, config) if row]


def test_the_page_says_of_each_image_what_holds_and_what_fails(searched):
    page = read_page((searched / "evaluation" / "index.html").read_text())
    drafts = [c.search for row in rows_of(searched) for c in row.candidates]
    marks = [value for tag, name, value in page.attributes if (tag, name) == ("i", "title")]
    assert sorted(marks) == sorted(f"{a.text}: {a.value:.2f}" for step in drafts for a in step.atoms)
    for step in drafts:
        held = sum(atom.value >= 0.5 for atom in step.atoms)
        assert f"{held} of {len(step.atoms)} hold" in page.visible
        for atom in step.atoms:
            assert atom.value >= 0.5 or f"\u2192 {atom.mend}" in page.visible
        if step.parent is not None:
            assert f"from image {step.parent}: {step.reflection}" in page.visible
    left_alone = sum(step.restart == "holds" for step in drafts)
    assert left_alone
    assert f"Chains started afresh: {left_alone} whose image held all that is asked for." in page.visible
    assert ("meta", "name", "viewport") in page.attributes


def test_results_say_how_far_the_answer_meets_each_requirement(searched):
    lines = [json.loads(line) for line in (searched / "evaluation" / "results.jsonl").read_text().splitlines()]
    rows = rows_of(searched)
    assert len(lines) == len(rows) == 12
    for line, row in zip(lines, rows, strict=True):
        best = max(row.candidates, key=lambda c: (c.search.score, -c.index)).search
        assert [(a["kind"], a["text"]) for a in line["atoms"]] == [(a.kind, a.text) for a in best.atoms]
        assert [a["value"] for a in line["atoms"]] == pytest.approx([a.value for a in best.atoms], abs=1e-4)
    summary = json.loads((searched / "evaluation" / "summary.json").read_text())
    assert summary["restarts"]["holds"] > 0


@pytest.fixture(scope="module")
def table(searched, tmp_path_factory):
    out = tmp_path_factory.mktemp("table") / "new" / "routes.json"
    assert main(["routes", "--run", str(searched), "--out", str(out)]) == 0
    return out


def test_a_table_counts_every_try_of_both_ways(searched, table, capsys):
    assert main(["routes", "--run", str(searched), f"{searched}/../{searched.name}", "--out", str(table)]) == 0
    said = capsys.readouterr().out
    tries = [one for row in rows_of(searched) for one in tries_in(row.candidates)]
    found = load_routes(str(table))
    assert sum(one.number for one in found.tries) == len(tries)  # the same run twice counts once
    (source,) = found.learnt_from
    assert (source.run, source.prompts, source.generator, source.corrector) == (
        "run",
        12,
        "micro/flux",
        "micro/corrector",
    )
    assert "run: 12 of 12 prompts" in said
    assert said.count("<- taken") == len({(one.fails, one.atoms) for one in tries})
    assert str(searched) not in table.read_text()


def test_what_is_there_of_an_unfinished_search_counts(searched, table, tmp_path, capsys):
    half = shutil.copytree(searched, tmp_path / "half")
    folder, config = open_run(str(half))
    (steps,) = resolve_chains(folder, config).values()
    folder.delete_block("draft_round", steps[2].key, 1)
    for step in steps[:3]:
        folder.delete_block("draft_round", step.key, 2)
    shutil.rmtree(half / "stages" / "judge_candidates")  # whose verdicts are nothing to it
    assert main(["routes", "--run", str(half), "--out", str(tmp_path / "routes.json")]) == 0
    assert "half: 8 of 12 prompts; 8 are not searched to the end" in capsys.readouterr().out
    fewer, all_of_it = (sum(one.number for one in load_routes(str(p)).tries) for p in (tmp_path / "routes.json", table))
    assert 0 < fewer < all_of_it


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--prompts", "micro-dev"], "a search of no benchmark's prompts"),
        (["--tools.verifier.kinds", "judge"], "no say in"),
        (["--search.strategy", "noise"], "a search with reflections"),
        (["--tools.verifier.kinds", "rules"], "--tools.verifier.kinds atoms"),
    ],
)
def test_searches_that_no_table_may_be_learnt_from_are_refused(tmp_path, arguments, says, capsys):
    from commands.arguments import parse_with_preset
    from commands.search import SearchArgs, default_arguments
    from pipelines.new_run import new_run
    from pipelines.search_job import search_prompts

    said = [*SEARCH, *arguments, "--run", str(tmp_path / "search")]
    job = parse_with_preset(SearchArgs, said, "search", default_arguments).job
    rows = list(search_prompts(job))
    new_run(str(tmp_path / "search"), "micro", "search", job, rows, lambda: ({"rule": len(rows)}, {}))
    assert main(["routes", "--run", str(tmp_path / "search"), "--out", str(tmp_path / "routes.json")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "routes.json").exists()


def test_searches_by_different_models_are_refused(searched, tmp_path, capsys):
    other = tmp_path / "other"
    patch = in_place_of_verifier_and_critic()
    try:
        few = ["--num-prompts", "2", "--search.depth", "2", "--tools.generator.flux.num-steps", "1"]
        assert main(["search", "--run", str(other), *SEARCH, *few]) == 0
    finally:
        patch.undo()
    assert main(["routes", "--run", str(searched), str(other), "--out", str(tmp_path / "routes.json")]) == 2
    assert "the same generator and corrector" in capsys.readouterr().err
    for no_file in (tmp_path, other / "run.json" / "routes.json"):
        assert main(["routes", "--run", str(searched), "--out", str(no_file)]) == 2
        assert "--out" in capsys.readouterr().err
    assert main(["routes", "--run", str(tmp_path / "nowhere"), "--out", str(tmp_path / "routes.json")]) == 3


def learned(run, table):
    few = ["--num-prompts", "6", "--unit-size", "3", "--search.route", "learned", "--tools.routes", str(table)]
    patch = in_place_of_verifier_and_critic()
    try:
        return main(["search", "--run", str(run), *SEARCH, *few])
    finally:
        patch.undo()


def test_a_search_by_a_table_goes_on_with_the_same_one_alone(table, tmp_path, capsys):
    own, run = Path(shutil.copy(table, tmp_path / "routes.json")), tmp_path / "run"
    assert learned(run, own) == 0
    routes = load_routes(str(own))
    ways = dict.fromkeys(("correct", "fresh"), 0)
    for row in rows_of(run):
        by_chain = [[c.search for c in row.candidates if c.search.chain == chain] for chain in (0, 1)]
        for first, second, _ in by_chain:
            if failing(first.atoms):
                way = routes.way(first.atoms)
                ways[way] += 1
                assert (second.parent is None, second.restart) == (way == "fresh", "route" if way == "fresh" else None)
            else:
                assert second.restart == "holds"
    assert sum(ways.values())
    before = {p: p.read_bytes() for p in (run / "stages").rglob("*.parquet")}
    folder, config = open_run(str(run))
    (steps,) = resolve_chains(folder, config).values()
    for step in steps[1:]:
        folder.delete_block(step.name, step.key, 1)
    assert learned(run, own) == 0
    assert {p: p.read_bytes() for p in (run / "stages").rglob("*.parquet")} == before
    said = json.loads(own.read_text())
    own.write_text(json.dumps(said | {"tries": said["tries"][:-1]}))
    assert learned(run, own) == 3
    assert "routes.json" in capsys.readouterr().err


def test_near_pairs_of_a_search_are_a_dataset(searched, tmp_path):
    out = tmp_path / "near"
    near = ["--harvest.partner", "near", "--harvest.pairs-per-prompt", "9", "--quiet"]
    assert main(["harvest", "--run", str(searched), "--out", str(out), *near]) == 0
    samples = [s for tar in sorted((out / "shards").glob("*.tar")) for s in decode_shard(tar.read_bytes(), tar.name)]
    mended = {
        (row.prompt.prompt_id, flaw.mend)
        for row in rows_of(searched)
        for child in row.candidates
        if child.search.parent is not None
        and (flaw := mended_flaw(row.candidates[child.search.parent].search.atoms, child.search.atoms))
    }
    assert samples
    assert {(s.meta["prompt_id"], s.reflection) for s in samples} <= mended
    assert main(["verify", "--run", str(out), "--deep"]) == 0


def test_a_table_is_part_of_what_a_run_is(table, tmp_path):
    """By its content, not by where it lies; a search that goes by none does not know of it."""
    copy = shutil.copy(table, tmp_path / "copy.json")
    tools = [SearchToolsConfig(routes=str(path)) for path in (table, copy)]
    digests = {name: content_key(load_routes(name).as_json()) for one in tools for name in routes_names(one)}
    first, second = (output_config(one, digests) for one in tools)
    assert first == second
    assert first["routes"] == digests[str(table)]
    assert "routes" not in output_config(SearchToolsConfig(), {})
    correct = catalogue.load("micro", "search").tools
    assert correct.for_search(SearchConfig(strategy="reflection"), VlmConfig()).routes == ""


@pytest.mark.parametrize(
    ("search", "kinds", "routes", "says"),
    [
        (SearchConfig(strategy="noise", route="learned"), ("atoms",), "routes.json", "which corrects nothing"),
        (SearchConfig(strategy="reflection", route="learned"), ("vlm",), "routes.json", "vlm does not say"),
        (SearchConfig(strategy="reflection", route="learned"), ("atoms",), "", "pilot search"),
    ],
)
def test_a_learned_route_without_what_it_needs_says_what_to_do(search, kinds, routes, says):
    tools = SearchToolsConfig(verifier=VerifierConfig(kinds), routes=routes)
    with pytest.raises(InputError, match=says):
        tools.routes_for(search)
