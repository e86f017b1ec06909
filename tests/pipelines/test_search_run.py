"""A search over prompts is a run like any other: it resumes, goes deeper, adds up, and says what it found."""

import json
import re
import shutil
from dataclasses import replace

import pytest

from commands.main import main
from commands.runs import open_run
from inference.judges.intervals import Interval
from inference.search import SearchConfig
from pipelines.conservation import tally
from pipelines.evaluation import JUDGE, budgets_of, evaluate, read_rows
from pipelines.intake import take_in
from pipelines.jobs import resolve_chains
from pipelines.prompts.compose_rules import TagWeights
from pipelines.run_folder import RunFolder
from pipelines.search_job import SearchJobConfig, search_prompts
from recipes import catalogue
from schemas.errors import InputError
from tests.support.page_reader import read_page

MICRO = catalogue.load("micro", "search")
ARGS = (
    *("--num-prompts", "6", "--unit-size", "4", "--search.strategy", "noise", "--search.width", "2"),
    *("--tools.verifier.kinds", "rewards", "--tools.generator.flux.num-steps", "2", "--quiet"),
    *("--num-threads", "1", "--also-score", "judge"),
)


def search(folder, *arguments):
    return main(["search", "--run", str(folder), *ARGS, *arguments])


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search") / "run"
    assert search(folder, "--search.depth", "3", "--images-per-prompt", "2") == 0
    return folder


def opened(folder) -> tuple[RunFolder, SearchJobConfig]:
    found, config = open_run(str(folder))
    assert isinstance(config, SearchJobConfig)
    return found, config


def blocks(folder):
    return {p.relative_to(folder): p.read_bytes() for p in (folder / "stages").rglob("*.parquet")}


def test_composed_prompts_are_of_the_kinds_that_are_weighted():
    only = TagWeights(0, 0, 0, 0, 0, 0, 0, position_with_color=1)
    searched = search_prompts(replace(MICRO, prompts="composed", num_prompts=12, seed=3, tag_weights=only))
    dataset = take_in(replace(catalogue.load("micro", "dataset"), num_prompts=12, seed=3, tag_weights=only)).rows()
    texts = [row.prompt.text for row in searched]
    assert texts == [row.prompt.text for row in dataset]
    for row in search_prompts(replace(MICRO, prompts="composed", num_prompts=12, seed=3, tag_weights=only)):
        second, first = row.prompt.include
        assert first.relation
        assert first.color
        assert second.color
    with pytest.raises(InputError) as error:
        list(search_prompts(replace(MICRO, prompts="composed", num_prompts=2, tag_weights=TagWeights(colors=-1))))
    assert error.value.field == "tag_weights.colors"


def test_a_deeper_search_goes_on_from_a_shallower_one(searched, tmp_path):
    assert search(tmp_path / "run", "--search.depth", "2", "--images-per-prompt", "2") == 0
    before = blocks(tmp_path / "run")
    assert search(tmp_path / "run", "--search.depth", "3", "--images-per-prompt", "2") == 0
    after = blocks(tmp_path / "run")
    kept = {path: data for path, data in before.items() if after.get(path) == data}
    assert len(kept) == len(before)
    assert {p: d for p, d in after.items() if "draft_round" in str(p)} == {
        p: d for p, d in blocks(searched).items() if "draft_round" in str(p)
    }
    whole, again = ((f / "evaluation" / "results.jsonl").read_text() for f in (searched, tmp_path / "run"))
    assert whole == again


def test_lost_blocks_are_made_again_and_change_nothing(searched, tmp_path, capsys):
    shutil.copytree(searched, tmp_path / "run")
    folder, config = open_run(str(tmp_path / "run"))
    (steps,) = resolve_chains(folder, config).values()
    for step in steps[1:]:
        folder.delete_block(step.name, step.key, 1)
    (tmp_path / "run" / "evaluation" / "results.jsonl").unlink()
    assert main(["resume", "--run", str(tmp_path / "run"), "--quiet"]) == 0
    assert blocks(tmp_path / "run") == blocks(searched)
    results = [(f / "evaluation" / "results.jsonl").read_text() for f in (searched, tmp_path / "run")]
    assert results[0] == results[1]


@pytest.mark.parametrize("command", [["status"], ["status", "--json"], ["verify", "--deep"], ["report"]])
def test_other_commands_know_search_runs(searched, command, capsys):
    assert main([command[0], "--run", str(searched), *command[1:]]) == 0
    assert capsys.readouterr().out


def test_status_says_of_each_round_what_it_drew(searched, capsys):
    folder, config = open_run(str(searched))
    assert main(["status", "--run", str(searched)]) == 0
    rounds = [line for line in capsys.readouterr().out.splitlines() if " draft_round " in line]
    drawn = [int(re.search(r"(\d+) generations", line)[1]) for line in rounds]
    assert len(drawn) == config.search.depth
    assert sum(drawn) == tally(folder, config).cost["draft_round"].generations


def test_what_is_asked_differently_is_refused(searched, capsys):
    assert search(searched, "--search.depth", "3", "--images-per-prompt", "2", "--seed", "5") == 3
    assert "seed" in capsys.readouterr().err
    assert main(["run", "--run", str(searched)]) == 3
    assert "builds no dataset" in capsys.readouterr().err


def test_budgets_are_prefixes_and_the_oracle_is_a_bound(searched):
    folder, config = opened(searched)
    assert budgets_of(config) == [1, 2, 4, 6]
    found = evaluate(folder, config)
    assert len(found.searches) == 12
    assert found.cost.generations == 12 * 6
    assert found.cost.denoiser_passes == 12 * 6 * 2
    for budget in budgets_of(config):
        assert found.score(budget).value <= found.score(budget, JUDGE).value
        assert found.score(budget).value == pytest.approx(found.by_tag(budget)["overall"])
    bounds = [found.score(b, JUDGE).value for b in budgets_of(config)]
    assert bounds == sorted(bounds)
    one = found.searches[0]
    assert one.chosen(1) == 0
    assert one.scores[one.chosen(4)] == max(one.scores[:4])
    rows = [row for row in read_rows(folder, config) if row]
    assert [(c.search.round, c.search.chain) for c in rows[0].candidates] == [(r, c) for r in range(3) for c in (0, 1)]
    assert len({c.seed for row in rows for c in row.candidates}) == 72


def test_verifiers_without_a_say_are_heard_all_the_same(searched):
    folder, config = opened(searched)
    found = evaluate(folder, config)
    assert set(found.searches[0].opinions) == {"judge"}
    # The judge as a verifier says what the judge says; whoever it would have chosen is right where one is.
    for one in found.searches:
        assert one.opinions["judge"] == tuple(float(right) for right in one.right)
        assert one.opinions["judge"][one.chosen(6, "judge")] == max(one.opinions["judge"])
        assert one.is_right(6, "judge") == any(one.right)
    assert found.score(6).value <= found.score(6, "judge").value


def test_the_summary_says_what_was_spent_up_to_each_budget(searched):
    summary = json.loads((searched / "evaluation" / "summary.json").read_text())
    spent = {entry["budget"]: entry for entry in summary["spent"]}
    assert [entry["generations"] for entry in spent.values()] == [24, 24, 48, 72]  # a budget of 1 costs its round
    assert spent[6]["denoiser_passes"] == 72 * 2
    assert 0 < spent[2]["seconds"] < spent[4]["seconds"] < spent[6]["seconds"]


def test_genevals_own_files(searched):
    folder = searched / "evaluation"
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert len(lines) == 12
    fields = {"filename", "tag", "prompt", "correct", "reason", "metadata", "details"}
    assert set(lines[0]) == {*fields, "requirements_from"}
    assert all((folder / line["filename"]).read_bytes()[:4] == b"\x89PNG" for line in lines)
    names = [line["filename"] for line in lines[:3]]
    assert names == [f"geneval/0000{i}/samples/000{k}.png" for i, k in ((0, 0), (0, 1), (1, 0))]
    metadata = json.loads((folder / "geneval" / "00000" / "metadata.jsonl").read_text())
    assert metadata["prompt"] == lines[0]["prompt"]
    assert all(line["correct"] or line["reason"] for line in lines)
    summary = json.loads((folder / "summary.json").read_text())
    share = sum(line["correct"] for line in lines) / 12
    assert summary["budgets"][-1]["score"][0] == pytest.approx(share)  # tags are of one size here


def test_every_tags_share_has_an_interval(searched, capsys):
    assert main(["evaluate", "--run", str(searched)]) == 0
    printed = capsys.readouterr().out
    page = (searched / "evaluation" / "index.html").read_text()
    budgets = json.loads((searched / "evaluation" / "summary.json").read_text())["budgets"]
    for row in budgets:
        shares = {tag: share for tag, share in row["by_tag"].items() if tag != "overall"}
        found = {tag: Interval.from_list(found) for tag, found in row["by_tag_intervals"].items()}
        assert {tag: one.value for tag, one in found.items()} == shares
        assert all(one.low <= one.value <= one.high or one.shown() == f"{one.value:.3f}" for one in found.values())
        assert all(f"<td>{one}</td>" in page for one in found.values())
    for tag, found in budgets[-1]["by_tag_intervals"].items():
        assert f"  {tag:<14} {Interval.from_list(found)}\n" in printed


@pytest.mark.parametrize(
    "flag", [["--out", "o"], ["--official=f"], ["--judge.kind", "segmentation"], ["--batch-size", "8"]]
)
def test_what_has_no_effect_on_a_run_is_refused(searched, flag, capsys):
    assert main(["evaluate", "--run", str(searched), *flag]) == 2
    assert "beside --run" in capsys.readouterr().err


def test_all_images_are_exported_in_the_published_layout(searched, tmp_path, capsys):
    out = tmp_path / "published"
    assert main(["evaluate", "--run", str(searched), "--export", str(out)]) == 0
    folder, config = opened(searched)
    rows = [row for row in read_rows(folder, config, with_images=True) if row]
    places = sorted(path.name for path in out.iterdir())
    assert places == [f"{i:05}" for i in range(6)]
    for number, place in enumerate(places):
        searches = rows[2 * number : 2 * number + 2]
        middle = {p.name: p.read_bytes() for p in (out / place / "midimg").iterdir()}
        candidates = [c for row in searches for c in row.candidates]
        assert middle == {f"{c.search.round}_round@{c.seed}.png": c.image for c in candidates}
        for sample, row in enumerate(searches):
            best = max(row.candidates, key=lambda c: (c.search.score, -c.index))
            for name in ("samples", "samples_best", "samples_path_bestround"):
                suffix = "_00" if name == "samples_path_bestround" else ""  # noise: nothing is corrected
                assert (out / place / name / f"{sample:04}{suffix}.png").read_bytes() == best.image
            last = [c.image for c in row.candidates if c.search.round == 2]
            assert (out / place / "samples_lastround" / f"{sample:04}.png").read_bytes() in last
    # GenEval's layout: our own scorer reads it too.
    assert main(["evaluate", "geneval", "--images", str(out), "--out", str(tmp_path / "scored")]) == 0
    scored = (tmp_path / "scored" / "results.jsonl").read_text().splitlines()
    ours = (searched / "evaluation" / "results.jsonl").read_text().splitlines()
    assert [json.loads(a)["correct"] for a in scored] == [json.loads(b)["correct"] for b in ours]


def test_any_folder_in_genevals_layout_is_scored(searched, tmp_path, capsys):
    folder = searched / "evaluation"
    ours = folder / "results.jsonl"
    arguments = ["--images", str(folder / "geneval"), "--out", str(tmp_path), "--official", str(ours)]
    assert main(["evaluate", *arguments]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["agreement_with_official"] == {"images": 12, "same_verdict": 1.0}
    assert summary["score"] == json.loads((folder / "summary.json").read_text())["budgets"][-1]["score"]
    again = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    first = [json.loads(line) for line in ours.read_text().splitlines()]
    assert [(a["correct"], a["reason"]) for a in again] == [(f["correct"], f["reason"]) for f in first]


def test_a_broken_folder_is_named(searched, tmp_path, capsys):
    assert main(["evaluate", "--images", str(tmp_path)]) == 2
    assert "no images" in capsys.readouterr().err
    (tmp_path / "00000" / "samples").mkdir(parents=True)
    (tmp_path / "00000" / "samples" / "0.png").write_bytes(b"no image")
    (tmp_path / "00000" / "metadata.jsonl").write_text('{"prompt": "a star", "tag": "counting"}\n')
    assert main(["evaluate", "--images", str(tmp_path)]) == 2
    assert "metadata.jsonl:1" in capsys.readouterr().err
    assert main(["evaluate"]) == 2
    official = tmp_path / "official.jsonl"
    official.write_text("{}\n")
    layout = str(searched / "evaluation" / "geneval")
    assert main(["evaluate", "--images", layout, "--out", str(tmp_path), "--official", str(official)]) == 2
    assert "official.jsonl:1" in capsys.readouterr().err


def test_the_page_has_filmstrips(searched):
    page = read_page((searched / "evaluation" / "index.html").read_text())
    folder, config = opened(searched)
    assert page.attributes.count(("div", "class", "film")) == 12
    images = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    assert len(images) == sum(len(row.candidates) for row in read_rows(folder, config) if row)
    assert all(image.startswith("data:image/png") for image in images)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--search.strategy", "reflection", "--tools.corrector.flux.lora", ""], "without a corrector"),
        (["--prompts", "nowhere.jsonl"], "no such file"),
        (["--search.width", "0"], "at least 1"),
        (["--images-per-prompt", "0"], "at least 1"),
        (["--search.width", "4", "--search.depth", "2", "--allocation.budget", "3"], "first round takes 4"),
        (["--allocation.budget", "4"], "compare images of one prompt"),
        (["--search.max-edits=-1"], "0 or more"),
        (
            ["--search.strategy", "reflection", "--tools.critic.kind", "vlm", "--search.max-quality-drop", "2"],
            "without a quality reward",
        ),
        (["--tools.verifier.kinds", "rewards", "rewards"], "different verifiers"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(tmp_path, arguments, says, capsys):
    assert search(tmp_path / "run", *arguments) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_prompts_are_taken_evenly_over_tags_and_from_files(tmp_path):
    rows = list(search_prompts(replace(MICRO, num_prompts=12)))
    tags = [row.prompt.tag for row in rows]
    assert {tags.count(tag) for tag in set(tags)} == {2}
    file = tmp_path / "prompts.jsonl"
    said = {"tag": "single_object", "include": [{"class": "star", "count": 1}], "prompt": "a photo of a star"}
    file.write_text(json.dumps(said) + "\n")
    (row,) = search_prompts(replace(MICRO, prompts=str(file)))
    assert row.prompt.text == "a photo of a star"
    file.write_text(json.dumps(said | {"include": [{"class": "dragon", "count": 1}]}) + "\n")
    with pytest.raises(InputError, match="dragon"):
        list(search_prompts(replace(MICRO, prompts=str(file))))


def test_keys_do_not_depend_on_what_is_not_used():
    shallow, deep = (replace(MICRO, search=SearchConfig(strategy="noise", depth=depth)) for depth in (2, 5))
    (first,), (second,) = (list(c.links().values()) for c in (shallow, deep))
    assert [link.config for link in second[:2]] == [link.config for link in first[:2]]
    assert first[0].config.tools.critic is None
    assert first[0].config.tools.verifier.trained is None


ALLOCATED = (
    *("--search.depth", "4", "--search.carry", "best", "--allocation.budget", "4", "--allocation.sure", "0.5"),
    *("--tools.verifier.kinds", "judge"),  # 1 for a right image: light, and sure of some prompts
)


@pytest.fixture(scope="module")
def allocated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("allocated") / "run"
    assert search(folder, *ALLOCATED) == 0
    return folder


def test_one_budget_is_spent_over_all_prompts_by_what_the_verifier_says(allocated, tmp_path, capsys):
    folder, config = opened(allocated)
    found = evaluate(folder, config)
    images = [len(one.scores) for one in found.searches]
    assert sum(images) == found.cost.generations <= 4 * 6
    assert len(set(images)) > 1
    for one in found.searches:
        if len(one.scores) < max(images):  # who stopped before the others was sure, or the budget was spent
            assert max(one.scores) >= 0.5 or sum(images) > 4 * 6 - 2
        assert all(max(one.scores[:n]) < 0.5 for n in range(2, len(one.scores), 2))
    assert main(["verify", "--run", str(allocated), "--deep"]) == 0
    # Noise knows no chains: the images are those of the fixed scheme, as far as they go.
    fixed = tmp_path / "fixed"
    assert search(fixed, *ALLOCATED, "--allocation.budget", "0") == 0
    whole = evaluate(*opened(fixed)).searches
    for one, all_of_it, n in zip(found.searches, whole, images, strict=True):
        assert one.scores == all_of_it.scores[:n]
        assert one.right == all_of_it.right[:n]


def test_an_allocated_search_that_lost_blocks_ends_the_same(allocated, tmp_path):
    run = shutil.copytree(allocated, tmp_path / "run")
    before, results = blocks(run), (run / "evaluation" / "results.jsonl").read_text()
    folder, config = open_run(str(run))
    (steps,) = resolve_chains(folder, config).values()
    for step in steps[2:]:
        folder.delete_block(step.name, step.key, 0)
    assert main(["resume", "--run", str(run), "--quiet"]) == 0
    assert blocks(run) == before
    assert (run / "evaluation" / "results.jsonl").read_text() == results
    assert search(run, *ALLOCATED, "--allocation.budget", "5") == 3  # another budget is another search
