"""A stage's or a role's own VLM: the run's, but for what its flags say; a change of it draws no image again."""

from dataclasses import replace

import pytest

from commands import plan, run, search
from commands.arguments import parse_with_preset
from commands.own_vlms import vlm_places
from inference.vlm.vlm import VlmConfig
from microworld.family import micro_vlm
from pipelines.jobs import models_of
from pipelines.stage import resolve_chain
from recipes import catalogue


def parsed(*flags, preset="micro"):
    """The dataset of a `plan` with these flags."""
    return parse_with_preset(plan.PlanArgs, ["--preset", preset, *flags], "plan", plan.default_arguments).dataset


def searched(*flags):
    arguments = ["--run", "r", "--preset", "micro", *flags]
    return parse_with_preset(search.SearchArgs, arguments, "search", search.default_arguments).job


def vlm_of(chain, name):
    return next(link.config.vlm for link in chain if link.stage.name == name)


def test_every_stage_and_role_that_asks_takes_the_flags():
    datasets = {".".join(flags) for flags, _ in vlm_places(run.default_arguments("flux"))}
    stages = {"condense.vlm", "caption.vlm", "reflect.vlm", "reflect.reflector_vlm"}
    assert datasets >= stages | {f"filter.verifier.{kind}.vlm" for kind in ("vlm", "prompted", "trained")}
    searches = {".".join(flags) for flags, _ in vlm_places(search.default_arguments("flux"))}
    roles = {"tools.critic.vlm.vlm", "tools.critic.vlm.reflector_vlm"}
    assert searches >= roles | {f"tools.verifier.{kind}.vlm" for kind in ("vlm", "prompted", "trained")}


def test_a_stages_own_flags_change_the_runs_vlm_for_it_alone():
    flags = ("--subsets", "length", "--annotate", "--vlm.max-new-tokens", "99")
    chain = parsed(*flags, "--reflect.vlm.model", "micro/reflector").links()["length"]
    own = vlm_of(chain, "write_reflections")
    assert (own.model, own.max_new_tokens) == ("micro/reflector", 99)
    assert vlm_of(chain, "condense_prompts").model == "micro/vlm"


@pytest.mark.parametrize("order", [1, -1])
def test_the_runs_flags_may_come_before_or_after(order):
    flags = [("--reflect.vlm.max-new-tokens=7",), ("--vlm.model=micro/reflector",)][::order]
    config = parsed("--annotate", *[one for some in flags for one in some])
    own = vlm_of(config.links()["rule"], "write_reflections")
    assert (own.model, own.max_new_tokens) == ("micro/reflector", 7)


def test_an_endpoint_for_all_and_another_model_there_for_one():
    flags = ["--vlm.model", "", "--vlm.endpoint-model", "large", "--vlm.base-url", "http://localhost:1/v1"]
    chain = parsed("--annotate", *flags, "--reflect.vlm.endpoint-model", "larger").links()["rule"]
    own = vlm_of(chain, "write_reflections")
    assert (own.name, own.base_url) == ("larger", "http://localhost:1/v1")


def test_roles_of_a_search_have_their_own():
    job = searched("--tools.critic.vlm.reflector-vlm.model", "micro/reflector", "--tools.verifier.vlm.vlm.model", "a/b")
    tools = job.tools.for_search(job.search, job.vlm)
    assert tools.critic.writer(job.vlm) == "atoms, else micro/reflector"
    assert tools.critic.vlm.vlm.model == "micro/vlm"
    assert tools.verifier.vlm.vlm.model == "a/b"
    assert set(models_of(job)) >= {"micro/reflector", "micro/vlm", "a/b"}


def test_a_change_of_a_stages_vlm_redoes_it_and_what_follows_and_draws_nothing_again():
    flags = ("--annotate", "--filter.verifier.kinds", "vlm")
    keys = []
    for own in ((), ("--reflect.vlm.max-new-tokens", "7")):
        config = parsed(*flags, *own)
        chain = [link for link in config.links()["rule"] if link.barrier is None]
        keys.append({step.name: step.key for step in resolve_chain(chain, "root", {}, lambda path: None, 1)})
    changed = {name for name, key in keys[0].items() if keys[1][name] != key}
    assert changed == {"write_reflections", "filter_pairs"}


def test_a_wrong_flag_of_a_stages_vlm_is_refused(capsys):
    with pytest.raises(SystemExit):
        parsed("--reflect.vlm.modell", "x")
    assert "--reflect.vlm.model" in capsys.readouterr().err


def test_no_preset_keeps_a_vlm_from_following_the_runs():
    for preset in catalogue.names("dataset"):
        for flags, _ in vlm_places(run.default_arguments(preset)):
            assert flags[-1] in ("vlm", "reflector_vlm")
    assert isinstance(catalogue.load("flux", "vlm"), VlmConfig)


def test_a_reward_that_asks_has_the_run_s_vlm_but_for_its_own_flags():
    third = ("--subsets", "general", "--rewards.rewards.3.kind", "vqa-score")
    (asked,) = [link.config for link in parsed(*third).links()["general"] if link.stage.name == "score_rewards"]
    assert asked.rewards[3].vqa_score.vlm == micro_vlm()
    own = parsed(*third, "--rewards.rewards.3.vqa-score.vlm.model", "micro/reflector")
    (asked,) = [link.config for link in own.links()["general"] if link.stage.name == "score_rewards"]
    assert asked.rewards[3].vqa_score.vlm == replace(micro_vlm(), model="micro/reflector")
    assert "micro/reflector" in models_of(own)


def test_a_kind_that_is_named_as_its_vlm_is_asks_the_runs_unless_flags_say_otherwise():
    def reads(*flags):
        return (
            searched("--requirements.kind", "vlm", "--vlm.seed", "5", *flags).links()["rule"][0].config.requirements.vlm
        )

    assert (reads().model, reads().seed) == ("micro/vlm", 5)
    own = reads("--requirements.vlm.max-new-tokens", "77")
    assert (own.model, own.seed, own.max_new_tokens) == ("micro/vlm", 5, 77)
