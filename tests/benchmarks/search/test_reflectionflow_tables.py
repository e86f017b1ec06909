"""The tables from made-up searches, by figures worked out by hand; and the command itself on a few prompts."""

import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.results_file import Circumstances
from benchmarks.search import reflectionflow_tables
from benchmarks.search.reflectionflow_plots import draw_plots
from benchmarks.search.reflectionflow_tables import Arguments, parse_arguments
from benchmarks.search.search_arms import (
    NOISE,
    REFLECTION,
    WHOLE,
    Arm,
    Found,
    as_deep_as_there_is,
    base_arm,
    strategy_arms,
    with_search,
)
from benchmarks.search.search_tables import (
    allocation_table,
    bin_of,
    budget_table,
    budgets_upto,
    difficulty_table,
    editor_table,
    paired,
    sureness_table,
    verifier_table,
)
from benchmarks.search.search_times import equal_time_rows, flux_seconds, time_rows
from microworld.instructed import InstructedCorrector
from pipelines.evaluation import Evaluation, SearchResult
from pipelines.search_cost import Spent
from pipelines.search_job import SearchJobConfig
from pipelines.served_vlms import served_vlms
from pipelines.stated_figures import FILTER_SECONDS, GPUS, REFLECT_SECONDS
from recipes import catalogue
from schemas.configuration import content_key, model_names, output_config
from schemas.errors import InputError
from schemas.records import Cost

ROOT = Path(__file__).parents[3]
TAGS = ("colors", "position")


def one(number, scores, right, opinions=None):
    rounds = tuple(i // 2 for i in range(len(scores)))
    return SearchResult(
        f"p{number}", TAGS[number % 2], f"text {number}", tuple(scores), tuple(right), rounds, opinions or {}
    )


ROUND = Cost(generations=2, denoiser_passes=8, verifier_calls=2)


def found(name, searches, seconds_a_round=1.0, cost=ROUND):
    depth = len(searches[0].scores) // 2
    arm = Arm(name, with_search(SearchJobConfig(), name if name in (NOISE, WHOLE) else NOISE, 2, depth))
    spent, total = [], Cost()
    for number in range(1, depth + 1):
        for _ in searches:
            total += cost
        spent.append(Spent(2 * number, total, seconds_a_round * number))
    return Found(arm, Evaluation(list(searches)), spent)


# Of four prompts, noise delivers: right, wrong, wrong, right at once; the last is lost at four images.
NOISES = found(
    NOISE,
    [
        one(0, [1, 0, 0, 0], [True, False, False, False]),
        one(1, [0, 1, 2, 0], [False, False, False, False]),
        one(2, [0, 1, 2, 3], [False, False, True, False]),
        one(3, [1, 0, 2, 0], [True, False, False, False]),
    ],
)
WHOLES = found(
    WHOLE,
    [
        one(0, [1, 0, 2, 0], [True, False, True, False], {"rewards": (0, 0, 0, 9)}),
        one(1, [0, 1, 2, 0], [False, False, True, False], {"rewards": (0, 0, 9, 0)}),
        one(2, [0, 1, 2, 3], [False, False, False, True], {"rewards": (9, 0, 0, 0)}),
        one(3, [1, 0, 2, 0], [True, False, True, False], {"rewards": (9, 0, 0, 0)}),
    ],
    seconds_a_round=2.0,
    cost=Cost(generations=2, denoiser_passes=8, verifier_calls=2, vlm_calls=4, vlm_prompt_tokens=10),
)


def found_with_corrections(one, number):
    """The last `number` images of each search were corrected from others; the rest are fresh."""
    corrected = tuple(i >= 4 - number for i in range(4))
    return replace(one, evaluation=Evaluation([replace(s, corrected=corrected) for s in one.evaluation.searches]))


BOTH = {NOISE: NOISES, WHOLE: WHOLES}


def test_a_gain_is_the_paired_difference_averaged_over_tags():
    gain = paired(WHOLES, NOISES, 4)
    # colors: prompts 0 (right, right) and 2 (right, wrong): +.5; position: 1 (right, wrong), 3 (right, wrong): +1
    assert gain.value == pytest.approx(0.75)
    assert gain.low <= 0.75 <= gain.high
    assert paired(NOISES, NOISES, 4, 1).value == pytest.approx((0.0 - 0.5) / 2)
    with pytest.raises(InputError, match="different prompts"):
        paired(WHOLES, found(NOISE, [replace(s, text="other") for s in NOISES.evaluation.searches]), 4)


def test_budgets_double_and_are_prefixes(capsys):
    assert budgets_upto(32) == [1, 2, 4, 8, 16, 32]
    assert budgets_upto(1) == [1]
    table = budget_table(BOTH, 4, "vlm")
    scores = {(row["strategy"], row["budget"]): row["score"][0] for row in table["rows"]}
    # at one image: prompts 0 and 3 are right; at two prompts 1 and 2 choose their second, wrong one
    assert scores == {
        **{(name, budget): 0.5 for name in (NOISE, WHOLE) for budget in (1, 2)},
        (NOISE, 4): 0.25,
        (WHOLE, 4): 1.0,
    }
    assert table["ladder"][f"{WHOLE} over {NOISE}"][0] == 0.75
    assert "gain over noise" in capsys.readouterr().out


def test_the_bound_is_the_best_there_was(capsys):
    row = next(r for r in budget_table(BOTH, 4, "vlm")["rows"] if (r["strategy"], r["budget"]) == (NOISE, 4))
    assert row["best_there_was"][0] == 0.75


def test_verifiers_choose_among_the_same_images_and_the_judge_is_the_bound(capsys):
    rows = verifier_table(BOTH, 4, "vlm")["rows"]
    at_four = {row["verifier"]: row["score"][0] for row in rows if row["budget"] == 4}
    assert at_four == {"vlm": 1.0, "rewards": 0.5, "judge": 1.0}
    told = {row["verifier"]: row["right_before_wrong"] for row in rows}
    assert told["judge"] == 1.0
    # Pairs (right, wrong): 4 + 3 + 3 + 4. vlm ranks 3.5 + 3 + 3 + 3.5 of them right (ties count half); see the scores.
    assert told["vlm"] == pytest.approx((4 + 3 + 3 + 4) / 14, abs=1e-4)
    assert told["rewards"] == pytest.approx((1 + 3 + 1 + 3) / 14, abs=1e-4)


def test_difficulty_is_the_papers_bins_over_ten_base_images(capsys):
    assert [bin_of(n / 10) for n in range(11)] == ["hard"] * 4 + ["medium"] * 4 + ["easy"] * 3
    shares = (0.9, 0.1, 0.5, 0.2)
    base = found("base", [one(i, [0] * 10, [j < 10 * s for j in range(10)]) for i, s in enumerate(shares)])
    rows = {r["difficulty"]: r for r in difficulty_table(BOTH | {"base": base}, 4, "vlm")["rows"]}
    assert {name: row["num_prompts"] for name, row in rows.items()} == {"hard": 2, "medium": 1, "easy": 1}
    assert rows["hard"]["base"][0] == 0.5  # prompts 1 and 3
    assert rows["hard"]["best_of_n"][0] == 0.0
    assert rows["hard"]["whole_over_best_of_n"][0] == 1.0
    assert rows["hard"]["budget"] == 4
    assert rows["hard"]["reflection"] is None  # no such search here
    assert rows["easy"]["whole_over_base"][0] == 0.0
    # Several searches a prompt (GenEval's four): a bin takes a prompt with all of them, by all of its base images.
    twice = {n: found(n, [s for s in f.evaluation.searches for _ in "ab"]) for n, f in BOTH.items()}
    bases = found("base", [s for s in base.evaluation.searches for _ in "ab"])
    again = {r["difficulty"]: r for r in difficulty_table(twice | {"base": bases}, 4, "vlm")["rows"]}
    for name, row in rows.items():
        assert again[name]["num_prompts"] == row["num_prompts"]
        assert again[name]["whole_over_best_of_n"][0] == row["whole_over_best_of_n"][0]
    seeds = {arm.job.seed for arm in strategy_arms(SearchJobConfig(), 2, [])}
    assert base_arm(SearchJobConfig()).job.seed not in seeds


def test_a_bin_without_prompts_has_no_row(capsys):
    base = found("base", [one(i, [0] * 10, [False] * 10) for i in range(4)])
    rows = difficulty_table(BOTH | {"base": base}, 4, "vlm")["rows"]
    assert {row["difficulty"] for row in rows} == {"hard"}
    assert "nan" not in capsys.readouterr().out


def test_costs_are_those_of_one_search():
    (two, four) = time_rows(WHOLES, [1, 2, 4])
    assert (two["seconds"], four["seconds"]) == (0.5, 1.0)
    assert (four["generations"], four["vlm_calls"], four["vlm_tokens"]) == (4, 8, 20)


def test_at_equal_time_best_of_n_has_as_many_images_as_fit():
    # The whole takes twice the time: at two images best-of-N has four; for four there is no best of eight.
    (row,) = equal_time_rows(WHOLES, NOISES, [1, 2, 4], "measured", paired)
    assert (row["budget"], row["noise_budget"]) == (2, 4)
    assert row["gain"][0] == pytest.approx(0.5 - 0.25)
    # FLUX's costs: 30 passes an image, and a tenth of a second for each look at it
    assert flux_seconds(NOISES, 4) == pytest.approx(4 * (30 * GPUS["h100"].pass_seconds + FILTER_SECONDS))
    corrected = found_with_corrections(WHOLES, 1)
    assert flux_seconds(WHOLES, 4) == pytest.approx(flux_seconds(NOISES, 4) + 8 * REFLECT_SECONDS)
    longer = flux_seconds(corrected, 4) - flux_seconds(WHOLES, 4)  # a pass with the condition's tokens, of one image
    assert 0.05 < longer / (30 * GPUS["h100"].pass_seconds) < 1
    assert flux_seconds(corrected, 2) == flux_seconds(WHOLES, 2)
    assert math.isinf(flux_seconds(NOISES, 6))


def test_an_allocated_search_is_compared_at_as_many_images_and_at_all(capsys):
    searches = [
        replace(s, scores=s.scores[:n], right=s.right[:n])
        for s, n in zip(WHOLES.evaluation.searches, (2, 4, 4, 2), strict=True)
    ]
    arm = Arm("allocated-3", with_search(SearchJobConfig(), REFLECTION, 2, 2))
    rows = allocation_table({REFLECTION: WHOLES, "allocated-3": Found(arm, Evaluation(searches))}, 4, "vlm")["rows"]
    last = rows[-1]
    assert (last["scheme"], last["images"]) == ("allocated-3", 3.0)
    assert last["over_largest"][0] == 0.0
    assert last["over_equal"] is not None


def test_stopping_at_a_score_is_replayed(capsys):
    rows = sureness_table({REFLECTION: WHOLES}, 4, "vlm")["rows"]
    at = {row["sure"]: row for row in rows}
    assert at[1.0]["images"] == 2.0
    assert at[1.0]["over_largest"][0] == pytest.approx(-0.5)
    assert at[8.0]["images"] == 4.0


def test_a_search_that_was_made_deeper_before_is_taken_as_it_is(tmp_path):
    from pipelines.run_folder import FORMAT, RunFolder, RunInfo
    from schemas.configuration import content_key

    arm = Arm(NOISE, with_search(SearchJobConfig(), NOISE, 2, 4))
    assert as_deep_as_there_is(arm, tmp_path) is arm
    for depth, taken in ((3, 4), (9, 9)):
        job = with_search(SearchJobConfig(), NOISE, 2, depth)
        info = RunInfo(FORMAT, "micro", asdict(job), 0, 8, content_key(0), (), {}, {}, "", "", "search")
        RunFolder.create(str(tmp_path / NOISE), info, [])
        assert as_deep_as_there_is(arm, tmp_path).job.search.depth == taken


def test_plots_are_drawn_from_the_results_alone_and_come_out_the_same(tmp_path, capsys):
    figures = {"budgets": budget_table(BOTH, 4, "vlm"), "verifiers": verifier_table(BOTH, 4, "vlm")}
    results = tmp_path / "tables.json"
    results.write_text(json.dumps({"figures": figures}))
    drawn = draw_plots(results)
    assert [path.name for path in drawn] == ["tables_budgets.svg", "tables_verifiers.svg"]
    before = [path.read_bytes() for path in drawn]
    assert all(b"<svg" in data for data in before)
    assert [path.read_bytes() for path in draw_plots(results)] == before


def test_editors_stand_beside_the_corrector_and_best_of_n_in_one_figure(tmp_path):
    arms = {NOISE: NOISES, REFLECTION: replace(WHOLES, arm=Arm(REFLECTION, WHOLES.arm.job)), "editor": NOISES}
    rows = editor_table(arms, 4, "vlm")["rows"]
    at_four = {row["corrector"]: row for row in rows if row["budget"] == 4}
    assert at_four[REFLECTION]["over_noise"][0] == pytest.approx(0.75)
    assert at_four["editor"]["over_noise"] == [0.0, 0.0, 0.0]
    assert at_four["editor"]["over_corrector"][0] == pytest.approx(-0.75)
    assert at_four[NOISE]["over_noise"] is None
    results = tmp_path / "tables.json"
    results.write_text(json.dumps({"figures": {"editors": {"rows": rows}}}))
    (drawn,) = draw_plots(results)
    assert drawn.name == "tables_editors.svg"
    assert b"<svg" in drawn.read_bytes()


def test_an_editor_s_arm_is_told_an_instruction_and_is_a_search_of_its_own():
    base = reflectionflow_tables._base_job(Arguments(), catalogue.load("micro", "search"))
    arms = {arm.name: arm for arm in reflectionflow_tables._arms(Arguments(only=("editors",)), base)}
    assert list(arms) == [NOISE, REFLECTION, "editor", "editor-with-prompt"]
    parts = [arms[name].job.links()["rule"][0].config for name in arms]
    assert len({content_key(output_config(one, {})) for one in parts}) == 4
    assert [getattr(one.tools, "template", None) for one in parts] == [None, None, "edit", "edit_with_prompt"]

    class Noted:
        def correct(self, images, prompts, reflections, seeds):
            self.said = (images, prompts, reflections, seeds)
            return [np.zeros((4, 4, 3), np.uint8)]

    noted = Noted()
    corrector = InstructedCorrector(noted, "Do: {reflection}")
    corrector.correct([np.ones((4, 4, 3), np.uint8)], ["a star"], ["Add a star. "], [7])
    assert noted.said[1:] == (["Do: Add a star."], [""], [7])


def test_each_opening_of_the_sealed_split_is_written_down_before_anything_is_searched(tmp_path):
    arguments = Arguments(split="micro-test", out=tmp_path / "tables.json")
    circumstances = Circumstances.now(arguments.command())
    assert len(reflectionflow_tables._openings(arguments, circumstances)) == 1
    assert len(reflectionflow_tables._openings(arguments, circumstances)) == 2
    kept = json.loads((tmp_path / "tables.json").read_text())["figures"]["openings"]
    assert [set(opening) for opening in kept] == [{"at", "commit", "command"}] * 2
    assert "--split micro-test" in kept[0]["command"]
    assert reflectionflow_tables._openings(Arguments(out=tmp_path / "dev.json"), circumstances) == []
    named = replace(arguments, trained_verifier="mine", runtime="ray").command()
    assert "--trained-verifier mine --runtime ray" in named
    assert not (tmp_path / "dev.json").exists()


def test_no_micro_model_takes_part_in_fluxs_tables(tmp_path):
    job = catalogue.load("flux", "search")
    arguments = Arguments(preset="flux", only=("verifiers", "shapes"), corrector=str(tmp_path))
    base = reflectionflow_tables._base_job(arguments, job)
    arms = reflectionflow_tables._arms(arguments, base)
    assert {kind for arm in arms for kind in arm.job.also_score} == {"prompted", "rules", "rewards"}
    used = {name for arm in arms for link in arm.job.links()["rule"] for name in model_names(link.config)}
    assert used
    assert [name for name in used if name.startswith("micro/")] == []
    with pytest.raises(InputError, match="no trained verifier"):
        reflectionflow_tables._base_job(replace(arguments, verifier=("trained",)), job)
    assert Arguments().model("verifier") == "micro/verifier"
    assert Arguments(corrector="").model("corrector") == ""


def test_searches_of_models_on_gpus_go_to_ray_one_after_the_other():
    assert Arguments(preset="flux").on_ray
    assert Arguments(preset="flux").at_a_time == 1
    assert not Arguments(preset="flux", runtime="local").on_ray
    assert not Arguments().on_ray
    assert Arguments().at_a_time == 2


def test_any_vlm_may_be_asked_and_its_tables_lie_apart(tmp_path):
    flags = ["--vlm.model", "", "--vlm.endpoint-model", "gpt-4o", "--vlm.base-url", "https://there.example/v1"]
    arguments = parse_arguments(["--preset", "flux", "--only", "shapes", "--corrector", str(tmp_path), *flags])
    job = reflectionflow_tables._base_job(arguments, catalogue.load("flux", "search"))
    assert {arm.job.vlm.name for arm in reflectionflow_tables._arms(arguments, job)} == {"gpt-4o"}
    (draft, *_) = job.links()["rule"]
    assert served_vlms(draft.config) == ()
    assert draft.config.tools.critic.vlm.vlm.base_url == "https://there.example/v1"
    usual = parse_arguments(["--preset", "flux", "--only", "shapes"])
    assert usual.folder == Path("runs/reflectionflow_tables/micro-dev")
    assert arguments.folder == Path("runs/reflectionflow_tables/micro-dev-gpt-4o")
    assert arguments.results.name == "reflectionflow_tables_dev_gpt_4o.json"
    assert "--vlm.endpoint-model gpt-4o" in arguments.command()
    assert "--vlm" not in usual.command()
    said = shlex.split(arguments.command())[3:]
    assert parse_arguments(said) == arguments


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_all_searches_have_one_cluster(monkeypatch):
    import ray

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    code = "import os, ray; ray.init(log_to_driver=False); print(ray.get_runtime_context().gcs_address)"
    with reflectionflow_tables.one_cluster():
        address = os.environ["RAY_ADDRESS"]
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.split()[-1] == address
    assert "RAY_ADDRESS" not in os.environ
    assert not ray.is_initialized()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_command_goes_on_after_a_kill_and_ends_with_the_same_tables(tmp_path):
    def command(name):
        flags = ["--num-prompts", "6", "--depth", "2", "--only", "budgets", "--corrector", "", "--processes", "2"]
        flags += ["--strategies", "noise", "reflection"]  # the second needs a corrector, and is left out
        flags += ["--runs", str(tmp_path / name), "--out", str(tmp_path / f"{name}.json")]
        words = [sys.executable, "-m", "benchmarks.search.reflectionflow_tables", *flags]
        return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    whole = command("whole")
    output = whole.communicate()[0]
    assert whole.returncode == 0, output
    assert "left out, without a corrector" in output
    killed = command("killed")
    while not list((tmp_path / "killed").rglob("stages/draft_round/*/*/*.parquet")):
        assert killed.poll() is None, killed.communicate()[0]
        time.sleep(0.1)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    again = command("killed")
    output = again.communicate()[0]
    assert again.returncode == 0, output
    tables = [json.loads((tmp_path / f"{name}.json").read_text())["figures"]["budgets"] for name in ("whole", "killed")]
    assert tables[0] == tables[1]
    assert (tmp_path / "whole_budgets.svg").read_bytes() == (tmp_path / "killed_budgets.svg").read_bytes()
