"""A preset searches in the best way that is known for its models; the paper's own is one by name."""

import json
from dataclasses import replace

import pytest

from benchmarks.search import reflectionflow_tables
from benchmarks.search.reflectionflow_tables import Arguments
from commands.main import main
from commands.reflect import default_arguments
from commands.runs import open_run
from inference.requirements.reader import RequirementsConfig
from pipelines.new_run import new_search_run
from pipelines.prompts.judgeable import Asked
from pipelines.search_job import asked_prompts, check_choosing, search_prompts
from recipes import catalogue
from schemas.errors import InputError
from schemas.records import PromptRecord, RequirementSource

BEST, PAPER = (catalogue.load(name, "search") for name in ("micro", "micro-paper"))


def test_the_paper_s_way_is_one_whoever_draws():
    published, flux = (catalogue.load(name, "search") for name in ("reflectionflow", "flux"))
    assert PAPER.search == published.search == flux.search
    assert BEST.search != PAPER.search
    kinds = {job.tools.critic.kind for job in (PAPER, published, flux)}
    assert kinds == {"vlm"} != {BEST.tools.critic.kind}


def test_both_draw_with_the_same_models_and_are_judged_alike():
    same = replace(PAPER, search=BEST.search, requirements=BEST.requirements, tools=BEST.tools)
    assert same == BEST
    for part in ("generator", "corrector", "quality"):
        assert getattr(PAPER.tools, part) == getattr(BEST.tools, part)


@pytest.mark.parametrize("preset", catalogue.names("search"))
def test_reflect_searches_as_its_preset_does_but_for_the_depth(preset):
    said, job = default_arguments(preset), catalogue.load(preset, "search")
    assert said.search == replace(job.search, depth=said.search.depth)
    assert said.search.depth <= 4
    assert (said.tools, said.requirements) == (job.tools, job.requirements)


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"carry": "best", "verifier": ("vlm", "atoms"), "reflector": "micro/reflector", "routes": "micro/routes"},
        {"carry": "best", "verifier": ("trained", "rules"), "reflector": "micro/reflector"},
    ],
    ids=str,
)
def test_no_arm_of_the_tables_depends_on_what_a_preset_does_without_flags(flags):
    arms = []
    for preset in ("micro", "micro-paper"):
        arguments = Arguments(preset=preset, only=tuple(reflectionflow_tables.MAKE), **flags)
        arms.append(
            reflectionflow_tables._arms(arguments, reflectionflow_tables._base_job(arguments, arguments.preset_job))
        )
    assert arms[0] == arms[1]
    assert len(arms[0]) > 8


def test_a_run_of_before_goes_on_as_it_was_begun(tmp_path, capsys):
    run = tmp_path / "run"
    begun = replace(PAPER, prompts="composed", num_prompts=2)
    new_search_run(str(run), "micro", begun)
    assert open_run(str(run))[1] == begun
    assert main(["plan", "--run", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_images"] == 2 * 32
    before = (run / "run.json").read_bytes()
    assert main(["search", "--run", str(run), "--prompts", "composed", "--num-prompts", "2"]) == 3
    said = capsys.readouterr().err
    assert "started with another configuration" in said
    assert f"resume --run {run}" in said
    assert (run / "run.json").read_bytes() == before


FREE = "a red star to the left of a blue ring"


def test_a_free_prompt_of_the_micro_world_is_one_question(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text(f"a photo of a star\n{FREE}\n")
    job = replace(BEST, prompts=str(file))
    asked = asked_prompts(job)
    check_choosing(job.tools.verifier, job.tools.verifier.kinds, job.requirements, asked)
    known, free = (row.prompt for row in search_prompts(job, asked))
    assert (known.include, known.questions) == (asked[0].record.include, ())
    assert [one.text for one in free.questions] == [f"Does the image show: {FREE}?"]
    assert free.requirements_from == RequirementSource.FALLBACK
    assert [link.stage.name for link in job.links()["rule"]] == ["draft_round"] * 4 + ["judge_candidates"]


@pytest.mark.parametrize(("kind", "is_refused"), [("none", True), ("whole", False), ("vlm", False)])
def test_elsewhere_somebody_must_say_what_is_checked(kind, is_refused):
    asked = [Asked(PromptRecord("p", FREE, "rule"))]
    requirements = RequirementsConfig(kind)
    if is_refused:
        with pytest.raises(InputError, match="do not say what must be seen") as caught:
            check_choosing(BEST.tools.verifier, ("atoms",), requirements, asked)
        assert "or whole (each is one question)" in str(caught.value.expected)
    else:
        check_choosing(BEST.tools.verifier, ("atoms",), requirements, asked)


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (("trained",), "--tools.verifier.kinds trained atoms, or --tools.critic.kind vlm"),
        (("rewards",), "--tools.critic.kind vlm"),
    ],
)
def test_another_verifier_alone_is_told_what_else_to_say(kinds, expected):
    tools = replace(BEST.tools, verifier=replace(BEST.tools.verifier, kinds=kinds))
    with pytest.raises(InputError, match="nobody says what fails") as caught:
        tools.for_search(BEST.search, BEST.vlm)
    assert caught.value.expected == expected
    asked = replace(tools, critic=replace(BEST.tools.critic, kind="vlm"))
    assert asked.for_search(BEST.search, BEST.vlm).verifier.kinds == kinds


def test_what_is_done_without_flags_is_the_arm_that_was_measured():
    measured = Arguments(only=("atoms",), carry="best", depth=4, verifier=("vlm", "atoms"), reflector="micro/reflector")
    base = reflectionflow_tables._base_job(measured, measured.preset_job)
    (job,) = [arm.job for arm in reflectionflow_tables._arms(measured, base) if arm.name == "atoms"]
    how_it_is_worked_off = {name: getattr(BEST, name) for name in ("unit_size", "num_threads", "vlm", "requirements")}
    assert replace(job, **how_it_is_worked_off) == BEST
