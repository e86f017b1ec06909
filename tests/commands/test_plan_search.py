"""`plan search`: what a search draws and costs, and one unit of it tried, before it begins."""

import json
from dataclasses import replace

import pytest

from commands.plan import GENEVAL_FILE, main, num_searches
from pipelines.estimate import estimate
from pipelines.model_costs import correction_share, draft_costs, generator_costs, verifier_seconds
from pipelines.placement import Cluster
from pipelines.stated_figures import (
    ATOMS_ASK_SHARE,
    CAPTION_SECONDS,
    FILTER_SECONDS,
    GPUS,
    GROUNDING_SECONDS,
    QUESTIONS_AN_IMAGE,
    REFLECT_SECONDS,
    flux_pass_tflop,
)
from recipes import catalogue
from schemas.image_size import ImageSize


def planned(capsys, *flags):
    code = main(["search", *flags, "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture(autouse=True)
def nothing_here(tmp_path, monkeypatch):
    """No weights and no prompts."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)


def test_without_genevals_file_its_number_is_taken_and_where_to_get_it_is_said(capsys):
    code, plan = planned(capsys, "--preset", "flux")
    assert code == 2
    assert plan["num_prompts"] == 553 * 4
    assert plan["num_images"] == 553 * 4 * 32
    assert "FLUX.1-dev" in plan["missing_weights"]
    assert num_searches(catalogue.load("flux", "search"))[1].startswith(f"no {GENEVAL_FILE} here: `curl")


def test_prompts_of_a_file_are_counted(tmp_path, capsys):
    (tmp_path / "mine.jsonl").write_text(
        "\n".join(
            json.dumps({"prompt": f"a photo of {n} cats", "tag": "counting", "include": [{"class": "cat", "count": n}]})
            for n in (2, 3, 4)
        )
    )
    plan = planned(capsys, "--preset", "flux", "--prompts", "mine.jsonl", "--search.depth", "3")[1]
    assert (plan["num_prompts"], plan["num_units"], plan["num_images"]) == (12, 3, 72)
    by_name = {stage["name"]: stage for stage in plan["stages"]}
    assert by_name["draft_round"]["num_items"] == by_name["judge_candidates"]["num_items"] == 72


def test_a_corrected_image_takes_longer_by_its_condition_and_as_many_steps_as_it_is_given():
    job = catalogue.load("flux", "search")

    def seconds(job) -> float:
        stages = estimate(job, Cluster(), num_searches=8).stages
        return next(stage.seconds_per_item or 0.0 for stage in stages if stage.name == "draft_round")

    noise = seconds(replace(job, search=replace(job.search, strategy="noise")))
    whole = seconds(job)
    share = flux_pass_tflop(ImageSize(1024, 1024), 512, 512) / flux_pass_tflop(ImageSize(1024, 1024), 512)
    drawn = noise - 0.1  # the verifier's
    assert whole == pytest.approx(drawn * share + 0.6)
    flux = replace(job.tools.corrector.flux, num_steps=15)
    half = replace(job, tools=replace(job.tools, corrector=replace(job.tools.corrector, flux=flux)))
    assert seconds(half) == pytest.approx(drawn * share / 2 + 0.6)


def test_what_a_vlm_is_asked_depends_on_what_is_said_and_by_whom():
    job = catalogue.load("flux", "search")

    def asked(strategy, critic, *kinds) -> float:
        tools = replace(
            job.tools,
            critic=replace(job.tools.critic, kind=critic),
            verifier=replace(job.tools.verifier, kinds=kinds),
            corrector=job.tools.corrector if "reflection" in strategy else None,
        )
        search = replace(job.search, strategy=strategy)
        costs = draft_costs(tools.for_search(search, job.vlm), GPUS["h100"], strategy)
        drawing = generator_costs(job.tools.generator, GPUS["h100"]).seconds or 0.0
        return (costs.seconds or 0.0) - drawing * (correction_share(tools) if tools.corrector else 1)

    assert asked("noise", "vlm", "vlm") == pytest.approx(FILTER_SECONDS)
    assert asked("reflection", "vlm", "vlm") == pytest.approx(REFLECT_SECONDS + FILTER_SECONDS)
    both = REFLECT_SECONDS + CAPTION_SECONDS + FILTER_SECONDS
    assert asked("noise+prompt+reflection", "vlm", "vlm") == pytest.approx(both)
    told = ATOMS_ASK_SHARE * REFLECT_SECONDS + GROUNDING_SECONDS
    assert asked("reflection", "atoms", "atoms") == pytest.approx(told)
    assert asked("reflection", "atoms", "vlm", "atoms") == pytest.approx(told + FILTER_SECONDS)


def test_without_a_detector_every_requirement_is_a_question():
    verifier = catalogue.load("images-api", "search").tools.verifier
    assert verifier_seconds("atoms", verifier)[0] == pytest.approx(QUESTIONS_AN_IMAGE * FILTER_SECONDS)


def test_a_budget_that_is_shared_out_is_what_is_planned():
    job = catalogue.load("flux", "search")
    plan = estimate(replace(job, allocation=replace(job.allocation, budget=8)), Cluster(), num_searches=8)
    assert plan.num_images == 64


def test_one_unit_of_a_search_is_tried_with_the_round_that_corrects(capsys):
    flags = ("--preset", "micro", "--search.width", "1", "--search.depth", "3", "--unit-size", "1", "--check")
    code, plan = planned(capsys, *flags)
    assert code == 0
    (node,) = plan["check"]["nodes"]
    assert [stage["stage"] for stage in node["stages"]] == [
        "draft_round",
        "draft_round",
        "judge_candidates",
        "pack_shards",
    ]
    assert all(stage["problem"] is None for stage in node["stages"])


def test_a_check_names_what_would_fail(capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    flags = ("--preset", "micro", "--search.width", "1", "--search.depth", "2", "--unit-size", "1", "--check")
    code, plan = planned(capsys, *flags, "--tools.corrector.flux.lora", str(tmp_path / "empty"))
    assert code == 2
    assert "is no corrector" in plan["check"]["nodes"][0]["stages"][0]["problem"]
