"""Algorithm 1 on numbers in place of images: what is drawn from what, what it costs, and that budgets are prefixes."""

from dataclasses import replace

import numpy as np
import pytest

from inference.corrector import CorrectorConfig
from inference.flux.corrector import FluxCorrectorConfig
from inference.generator import GeneratorConfig
from inference.interfaces import OneCallAnImage, Opinion
from inference.rewards.reward import RewardConfig
from inference.search import (
    NOTHING_WRONG,
    Remark,
    SearchConfig,
    SearchTrace,
    compared,
    corrected_from,
    next_round,
    search,
)
from inference.search_tools import SearchToolsConfig
from inference.verifier import MeanVerifier, RewardVerifier
from inference.vlm.vlm import VlmConfig
from schemas.errors import InputError
from schemas.records import Cost
from tests.support.scripted_search import Bright, Corrects, Draws, Says, image, tools

PROMPTS = ["a star", "two rings", "a heart"]


def test_the_best_of_n_draws_the_users_prompt_with_noise_of_its_own_each_time():
    used = tools()
    found = search(PROMPTS, SearchConfig(3, 4, "noise"), used)
    assert all(len(one.drafts) == 12 for one in found)
    assert len({draft.seed for one in found for draft in one.drafts}) == 36
    assert {draft.prompt for draft in found[0].drafts} == {"a star"}
    assert [len(prompts) for prompts, _ in used.generator.calls] == [9] * 4  # a round's chains of all prompts together
    assert found[1].best().score == max(draft.score for draft in found[1].drafts)
    assert found[0].cost == Cost(generations=12, denoiser_passes=96, verifier_calls=12)
    assert not used.critic.calls


def test_prompts_are_refined_along_each_chain_and_noise_is_fresh():
    used = tools()
    (one, *_) = search(PROMPTS, SearchConfig(2, 3, "noise+prompt"), used)
    assert [draft.prompt for draft in one.drafts if draft.chain == 1] == ["a star", "a star!", "a star!!"]
    assert all(draft.parent is None and draft.reflection is None for draft in one.drafts)
    assert not used.corrector.calls
    assert used.critic.calls[1][0] == [p for p in PROMPTS for _ in range(2)]  # it is told what the user wants
    assert one.cost.vlm_calls == 2 * 4
    assert {call[3:] for call in used.critic.calls} == {(False, True)}  # nobody asks for reflections


def test_with_reflections_each_chain_corrects_its_own_last_image():
    used = tools()
    (one, *_) = search(PROMPTS, SearchConfig(2, 3), used)
    for draft in one.drafts[2:]:
        assert draft.parent is not None
        parent = one.drafts[draft.parent]
        assert (parent.chain, parent.round) == (draft.chain, draft.round - 1)
        assert draft.image.mean() == parent.image.mean() + 1
        assert draft.reflection == f"brighter than {int(parent.image.mean())}"
    assert one.drafts[4].prompt == "a star!!"
    assert one.cost.denoiser_passes == 2 * 8 + 4 * 9


@pytest.mark.parametrize("said", [NOTHING_WRONG, f" {NOTHING_WRONG}\n", "no correction needed", "", "  ", "{}"])
@pytest.mark.parametrize("carry", ["own", "best"])
def test_where_there_is_nothing_to_correct_a_chain_starts_afresh_and_pays_for_having_asked(said, carry):
    class Content(Says):
        def remark(self, images, prompts, current, scores, **what):
            remarks = super().remark(images, prompts, current, scores, **what)
            return [remarks[0], *[Remark(said, one.prompt, one.cost) for one in remarks[1:]]]

    used = tools(critic=Content())
    (one,) = search(PROMPTS[:1], SearchConfig(2, 3, carry=carry), used)
    corrected, fresh = one.drafts[2], one.drafts[3]
    assert (corrected.parent, corrected.prompt) == (0, "a star!")
    assert (fresh.parent, fresh.reflection, fresh.prompt) == (None, None, "a star")
    assert fresh.seed != one.drafts[1].seed
    assert one.cost == Cost(generations=6, denoiser_passes=4 * 8 + 2 * 9, verifier_calls=6, vlm_calls=2 * 4)


def test_reflection_alone_keeps_the_users_prompt():
    used = tools()
    (one, *_) = search(PROMPTS, SearchConfig(2, 3, "reflection"), used)
    assert {draft.prompt for draft in one.drafts} == {"a star"}
    assert one.drafts[-1].reflection
    assert {call[3:] for call in used.critic.calls} == {(True, False)}


def test_with_topk_the_best_images_so_far_go_on():
    (one, *_) = search(PROMPTS, SearchConfig(2, 3, carry="topk"), tools())
    best = sorted(one.drafts[:2], key=lambda d: -d.score)
    assert [draft.parent for draft in one.drafts[2:4]] == [draft.number for draft in best]
    best = sorted(one.drafts[:4], key=lambda d: (-d.score, d.number))[:2]
    assert [draft.parent for draft in one.drafts[4:]] == [draft.number for draft in best]


def test_with_best_a_chain_goes_on_from_its_best_and_starts_afresh_when_that_is_in_vain():
    class Darkens(Corrects):
        def correct(self, images, prompts, reflections, seeds):
            super().correct(images, prompts, reflections, seeds)
            return [image(int(i.mean()) - 1) for i in images]

    used = tools(corrector=Darkens())
    config = SearchConfig(2, 5, carry="best", patience=2)
    (one,) = search(PROMPTS[:1], config, used)
    for chain in (0, 1):
        drafts = [draft for draft in one.drafts if draft.chain == chain]
        assert [d.parent for d in drafts] == [None, drafts[0].number, drafts[0].number, None, drafts[3].number]
        assert drafts[3].prompt == "a star"  # afresh from what the user asked for
    assert one.cost.denoiser_passes == 4 * 8 + 6 * 9
    assert one.cost.vlm_calls == 2 * 6  # nothing is said of images that nobody goes on from
    assert [len(prompts) for prompts, *_ in used.critic.calls] == [2, 2, 2]


def test_each_image_has_its_own_cost_and_every_verifier_that_was_asked_counts():
    class Writes(Bright):
        def verify(self, images, prompts):
            costs = [Cost(verifier_calls=1, vlm_prompt_tokens=20, vlm_completion_tokens=int(i.mean())) for i in images]
            scores = self.score(images, prompts).tolist()
            return [Opinion(score, cost, f"grey {score:.0f}") for score, cost in zip(scores, costs, strict=True)]

    config = SearchConfig(2, 3, "noise+prompt+reflection")
    (one,) = search(PROMPTS[:1], config, tools(verifier=MeanVerifier([Bright(), Writes()])))
    assert sum((draft.cost for draft in one.drafts), Cost()) == one.cost
    for draft in one.drafts:
        assert draft.score == draft.image.mean()
        assert draft.explanation == f"grey {draft.score:.0f}"  # the reasons of those that give some
        passes, asked = (8, 0) if draft.parent is None else (9, 2)
        said = Cost(vlm_prompt_tokens=20, vlm_completion_tokens=int(draft.image.mean()))
        assert draft.cost == said + Cost(1, passes, verifier_calls=2, vlm_calls=asked)


def test_the_critic_is_told_the_verifiers_reasons_of_the_very_images_that_it_looks_at():
    class Reasons(Bright):
        def verify(self, images, prompts):
            return [Opinion(one.score, one.cost, f"grey {one.score:.0f}") for one in super().verify(images, prompts)]

    used = tools(verifier=Reasons())
    (one,) = search(PROMPTS[:1], SearchConfig(2, 3), used)
    told = [said for call in used.critic.explanations for said in call]
    assert told == [draft.explanation for draft in one.drafts[:4]]
    silent = tools()
    (one,) = search(PROMPTS[:1], SearchConfig(2, 2), silent)
    assert silent.critic.explanations == [["", ""]]
    assert {draft.explanation for draft in one.drafts} == {None}


def test_searches_that_have_stopped_cost_nothing_more():
    used, config = tools(), SearchConfig(2, 2)
    searches = [SearchTrace(prompt) for prompt in PROMPTS]
    next_round(searches, 0, config, used, PROMPTS)
    next_round(searches, 1, config, used, PROMPTS, [True, False, True])
    assert [len(one.drafts) for one in searches] == [2, 4, 2]
    whole = search(PROMPTS, config, tools())
    assert [d.score for d in searches[1].drafts] == [d.score for d in whole[1].drafts]
    next_round(searches, 1, config, used, PROMPTS, [True] * 3)
    assert sum(one.cost.generations for one in searches) == 8


@pytest.mark.parametrize("strategy", ["noise", "noise+prompt", "noise+prompt+reflection"])
def test_a_smaller_depth_is_the_beginning_of_a_larger_one(strategy):
    short, long = (search(PROMPTS, SearchConfig(2, depth, strategy), tools()) for depth in (2, 5))
    for a, b in zip(short, long, strict=True):
        assert [(d.seed, d.prompt, d.score) for d in a.drafts] == [(d.seed, d.prompt, d.score) for d in b.drafts[:4]]
        assert b.best(4).number == a.best().number


def test_rounds_may_be_made_one_by_one_and_other_prompts_change_nothing():
    config, used = SearchConfig(2, 3), tools()
    whole = search(PROMPTS, config, tools())
    alone = search(PROMPTS[1:2], config, tools())
    assert [d.score for d in whole[1].drafts] == [d.score for d in alone[0].drafts]
    step_by_step = [SearchTrace(prompt) for prompt in PROMPTS]
    for number in range(3):
        next_round(step_by_step, number, config, used, PROMPTS)
    assert [[d.score for d in one.drafts] for one in step_by_step] == [[d.score for d in one.drafts] for one in whole]


class Draining(Corrects):
    """Ten darker at each turn, whatever it is told."""

    def correct(self, images, prompts, reflections, seeds):
        return [image(max(0, int(i.mean()) - 10)) for i in images]


def edits_before(one, draft):
    return len(corrected_from(one, draft)) - 1


@pytest.mark.parametrize("carry", ["own", "topk", "best"])
def test_an_image_is_edited_so_often_and_then_its_chain_starts_afresh(carry):
    config = SearchConfig(2, 8, "noise+prompt+reflection", carry, patience=9, max_edits=2)
    used = tools()
    (one,) = search(PROMPTS[:1], config, used)
    assert max(edits_before(one, draft) for draft in one.drafts) == 2
    afresh = [draft for draft in one.drafts if draft.restart]
    assert {(draft.restart, draft.parent, draft.reflection, draft.prompt) for draft in afresh} == {
        ("edits", None, None, PROMPTS[0])
    }
    # Nobody is asked about an image that is corrected no further.
    assert sum(len(call[0]) for call in used.critic.calls) == len([d for d in one.drafts if d.parent is not None])


def test_without_a_cap_nothing_is_counted():
    (one,) = search(PROMPTS[:1], SearchConfig(2, 8), tools())
    assert {draft.restart for draft in one.drafts} == {None}
    assert edits_before(one, one.drafts[-1]) == 7


def test_a_chain_that_lost_too_much_of_its_first_images_quality_starts_afresh():
    config = SearchConfig(1, 9, max_quality_drop=25)
    (one,) = search(PROMPTS[:1], config, tools(corrector=Draining(), quality=Bright(), size_of=lambda *key: None))

    def lost_before(draft):
        first = corrected_from(one, draft)[0]
        return (first.quality or 0.0) - (draft.quality or 0.0)

    lost = [lost_before(draft) for draft in one.drafts]
    assert max(lost) > 25  # the one that is noticed
    noticed = [draft for draft in one.drafts if draft.restart == "quality"]
    assert noticed
    for draft in noticed:
        assert lost_before(one.drafts[draft.number - 1]) > 25
    assert one.cost.reward_calls == 9


@pytest.mark.parametrize("wrong", [{"max_edits": -1}, {"max_quality_drop": -0.5}, {"max_quality_drop": float("nan")}])
def test_a_cap_below_nothing_is_refused(wrong):
    with pytest.raises(InputError, match="0 or more"):
        SearchConfig(**wrong)


def test_a_check_of_quality_needs_a_reward():
    config = SearchToolsConfig(corrector=CorrectorConfig("flux", FluxCorrectorConfig("somewhere")))
    with pytest.raises(InputError, match=r"--tools\.quality"):
        config.for_search(SearchConfig(max_quality_drop=1.0), VlmConfig())
    named = replace(config, quality=RewardConfig())
    assert named.for_search(SearchConfig(max_quality_drop=1.0), VlmConfig()).quality == RewardConfig("clip")
    assert named.for_search(SearchConfig(), VlmConfig()).quality is None


class Sized(Draws):
    """Keeps the sizes that it was asked for."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def generate(self, prompts, seeds, sizes=None):
        self.sizes.append(sizes)
        return super().generate(prompts, seeds)


def test_every_image_of_a_prompt_that_is_drawn_afresh_has_its_size():
    generator = GeneratorConfig(sizes=("40x24", "24x40"))
    used = tools(generator=Sized(), size_of=generator.size_of)
    search(PROMPTS, SearchConfig(2, 2, "noise", seed=3), used)
    expected = [generator.size_of(3, prompt) for prompt in PROMPTS for _ in range(2)]
    assert used.generator.sizes == [expected, expected]


class Scaled(OneCallAnImage):
    """A reward on a scale of its own."""

    def __init__(self, scale):
        self.scale = scale

    def score(self, images, prompts):
        return np.array([i.mean() * self.scale + 100 for i in images], np.float32)


def test_rewards_of_different_scales_weigh_the_same_within_a_prompt():
    verifier = RewardVerifier({"large": Scaled(1000.0), "small": Scaled(-0.001)})
    (one,) = search(PROMPTS[:1], SearchConfig(3, 4, "noise"), tools(verifier=verifier))
    # They say the opposite of each other: a mean of raw values would be the large one's.
    assert [draft.score for draft in one.drafts] == pytest.approx([0.0] * 12, abs=1e-3)
    assert [part.scorer for part in one.drafts[0].parts] == ["large", "small"]


def test_scores_that_are_relative_are_those_of_the_images_that_there_are():
    verifier = RewardVerifier({"a": Scaled(1.0), "b": Scaled(2.0)})
    (long,) = search(PROMPTS[:1], SearchConfig(3, 4, "noise"), tools(verifier=verifier))
    (short,) = search(PROMPTS[:1], SearchConfig(3, 2, "noise"), tools(verifier=verifier))
    assert long.best(6).number == short.best().number
    assert [d.score for d in compared(long.drafts[:6])] == [d.score for d in short.drafts]
    assert np.mean([draft.score for draft in long.drafts]) == pytest.approx(0.0, abs=1e-9)


def test_one_reward_alone_keeps_its_scale():
    (opinion,) = RewardVerifier({"a": Scaled(1.0)}).verify([image(3)], ["x"])
    assert (opinion.score, opinion.parts) == (103.0, ())


def test_a_strategy_without_its_models_is_refused():
    with pytest.raises(InputError, match="without a corrector"):
        search(PROMPTS, SearchConfig(), tools(corrector=None))
    with pytest.raises(InputError, match="without a critic"):
        search(PROMPTS, SearchConfig(strategy="noise+prompt"), tools(critic=None))
    with pytest.raises(InputError, match="all at least 1"):
        SearchConfig(width=0)
