"""Rewards, pairing by reward, condensing, captions and the verifier's filter, on plain rows."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.rewards.reward import RewardConfig
from inference.vlm.yes_no_verifier import YesNoVerifier
from microworld.family import micro_rewards
from pipelines.stages.caption_images import CaptionImages, CaptionImagesConfig
from pipelines.stages.condense_prompts import CondensePrompts, CondensePromptsConfig
from pipelines.stages.filter_pairs import FilterPairs, FilterPairsConfig
from pipelines.stages.score_rewards import ENSEMBLE, ScoreRewards, ScoreRewardsConfig, ensemble_of
from pipelines.stages.select_by_reward import SelectByLength, SelectByReward, SelectByRewardConfig
from schemas.errors import InputError
from schemas.records import PromptRecord, PromptRow, Reason, Reward
from tests.support.vlm_rows import ScriptedVlm, candidate, paired_row

LONG = "There are two red stars. In the upper left there is a large blue ring on a grey background."


def scored_row(values, texts=None, prompt="long text"):
    texts = texts or [prompt] * len(values)
    candidates = tuple(
        candidate(i, i, text, (Reward(ENSEMBLE, value),))
        for i, (value, text) in enumerate(zip(values, texts, strict=True))
    )
    return PromptRow(PromptRecord("general-000000", prompt, "general"), candidates)


values = st.lists(st.floats(-3, 3), min_size=2, max_size=12)


@settings(max_examples=150, deadline=None)
@given(values, st.integers(1, 5), st.integers(1, 4), st.floats(0.01, 2), st.integers(0, 3))
def test_pairs_are_of_the_top_and_the_bottom_and_keep_the_margin(drawn, k, number, margin, seed):
    config = SelectByRewardConfig(top_k=k, bottom_k=k, pairs_per_prompt=number, min_margin=margin)
    (done,) = SelectByReward(config, seed)([scored_row(drawn)])
    ranked = sorted(range(len(drawn)), key=lambda i: (-drawn[i], i))
    top, bottom = ranked[:k], ranked[len(ranked) - k :] if k < len(ranked) else ranked
    assert bool(done.pairs) == (done.rejection is None)
    assert len(done.pairs) <= number
    used = [i for pair in done.pairs for i in (pair.good, pair.bad)]
    assert len(set(used)) == len(used)
    for pair in done.pairs:
        assert pair.good in top
        assert pair.bad in bottom
        assert drawn[pair.good] - drawn[pair.bad] >= margin
    if max(drawn) - min(drawn) < margin:
        assert done.rejection.reason == Reason.NO_MARGIN


def test_a_long_prompt_s_images_are_paired_with_its_short_form_s():
    row = scored_row([1.0, 0.9, 0.8, 0.0, -1.0, 2.0], ["long text"] * 3 + ["text"] * 3)
    (done,) = SelectByLength(SelectByRewardConfig(pairs_per_prompt=5), 0)([row])
    assert len(done.pairs) == 2
    for pair in done.pairs:
        assert pair.good in (0, 1, 2)
        assert pair.bad in (3, 4)
    (lost,) = SelectByLength(SelectByRewardConfig(), 0)([scored_row([0.0, 1.0], ["long text", "text"])])
    assert lost.rejection.reason == Reason.NO_MARGIN


class ByValue:
    """Scores an image by its grey, times a factor."""

    def __init__(self, factor):
        self.factor = factor

    def score(self, images, prompts):
        self.prompts = prompts
        return np.array([image.mean() for image in images], np.float32) * self.factor


def test_every_scorer_and_the_ensemble_score_every_candidate_with_the_users_prompt():
    stage = ScoreRewards(ScoreRewardsConfig(micro_rewards()), 0)
    stage.scorers = {"clip": ByValue(1), "hps": ByValue(-2), "pick": ByValue(3)}
    rows = [
        PromptRow(
            PromptRecord(f"p{n}", f"prompt {n}", "length"), tuple(candidate(i, 10 * i + n, "short") for i in range(3))
        )
        for n in range(2)
    ]
    done = stage(rows)
    assert stage.scorers["clip"].prompts == ["prompt 0"] * 3 + ["prompt 1"] * 3
    assert [[r.scorer for r in c.rewards] for c in done[1].candidates] == [["clip", "hps", "pick", ENSEMBLE]] * 3
    assert done[1].candidates[2].rewards[0].value == pytest.approx(21)
    ensembles = [ensemble_of(c) for c in done[0].candidates]
    assert ensembles == sorted(ensembles)
    assert sum(ensembles) == pytest.approx(0, abs=1e-6)
    assert done[0].cost.reward_calls == 9


def test_scorers_of_no_weight_are_left_out_and_weights_count():
    clip, hps, pick = micro_rewards()
    config = ScoreRewardsConfig((replace(clip, weight=2.0), replace(hps, weight=0.0), pick)).only_what_is_used()
    assert [reward.name for reward in config.rewards] == ["clip", "pick"]
    stage = ScoreRewards(config, 0)
    stage.scorers = {"clip": ByValue(1), "pick": ByValue(-1)}
    (done,) = stage([PromptRow(PromptRecord("p", "p", "length"), tuple(candidate(i, 10 * i) for i in range(2)))])
    assert [ensemble_of(c) for c in done.candidates] == pytest.approx([-1 / 3, 1 / 3])


@pytest.mark.parametrize(
    ("rewards", "says"),
    [
        ((), "one or more with a weight"),
        ((RewardConfig(weight=0.0), RewardConfig("hps", weight=0.0)), "one or more with a weight"),
        ((RewardConfig(), RewardConfig(weight=2.0)), "of different names"),
        ((RewardConfig(weight=-1.0), RewardConfig("hps")), "0 or more"),
        ((RewardConfig(ENSEMBLE),), "another name"),
    ],
)
def test_an_ensemble_needs_scorers_with_a_weight_and_a_name_of_their_own(rewards, says):
    with pytest.raises(InputError, match=says):
        ScoreRewardsConfig(rewards).only_what_is_used()


def condense(say, **config):
    stage = CondensePrompts(CondensePromptsConfig(**config), 0)
    stage.vlm = ScriptedVlm(say)
    return stage


def test_a_condensed_prompt_is_shorter_and_says_nothing_new():
    row = PromptRow(PromptRecord("length-000000", LONG, "length"))
    (done,) = condense(lambda r: "two stars and a blue ring")([row])
    assert done.condensed == "two stars and a blue ring"
    assert done.prompt.text == LONG
    (more,) = condense(lambda r: "two stars and a green ring")([row])
    assert more.rejection.reason == Reason.SAYS_MORE
    assert "green ring" in more.rejection.detail
    (long,) = condense(lambda r: LONG + " It is.")([row])
    assert long.rejection.reason == Reason.NOT_SHORTER
    (empty,) = condense(lambda r: "")([row])
    assert empty.rejection.reason == Reason.NOT_SHORTER


def test_a_condensation_that_does_not_do_is_asked_for_again():
    stage = condense(lambda r: ["two green stars", "two stars"])
    (done,) = stage([PromptRow(PromptRecord("length-000000", LONG, "length"))])
    assert done.condensed == "two stars"
    assert done.cost.vlm_calls == 2
    assert all(not request.images and LONG in request.text for request in stage.vlm.requests)


def test_some_new_words_may_be_allowed():
    row = PromptRow(PromptRecord("length-000000", LONG, "length"))
    (done,) = condense(lambda r: "two red glittering stars, blue ring", max_new_words=0.2)([row])
    assert done.condensed


def test_the_caption_of_the_good_image_becomes_the_prompt():
    stage = CaptionImages(CaptionImagesConfig(), 0)
    stage.vlm = ScriptedVlm(lambda request: "a white square" if request.images[0].mean() > 128 else "a black square")
    (done,) = stage([paired_row(subset="editing", text="Paint it.")])
    assert done.prompt.text == "a white square"
    stage.vlm = ScriptedVlm(lambda request: "")
    (none,) = stage([paired_row(subset="editing")])
    assert none.rejection.reason == Reason.NO_CAPTION


@pytest.mark.parametrize(
    ("said", "caption", "reason"),
    [
        ("<think>a square?</think>\n**Caption:** a white square", "a white square", None),
        ("Sure! Here is a caption:\n\n> a white\u2028 square\x1b[0m\x00", "a white square", None),
        ("I'm sorry, but I can't describe people.", None, Reason.REFUSED_ANSWER),
        ("<think>a square, or is it", None, Reason.ONLY_REASONING),
        ("Sure! Here is a caption for the image:", None, Reason.NO_CAPTION),
        ("a white square " * 2000, None, Reason.OVERLONG_ANSWER),
    ],
)
def test_a_caption_is_a_text_or_a_rejection_that_shows_what_was_said(said, caption, reason):
    stage = CaptionImages(CaptionImagesConfig(), 0)
    stage.vlm = ScriptedVlm(lambda request: said)
    (done,) = stage([paired_row(subset="editing", text="Paint it.")])
    assert done.prompt.text == (caption or "Paint it.")
    assert (done.rejection.reason if done.rejection else None) == reason
    assert reason is None or said[:40] in done.rejection.detail


def test_what_is_no_condensed_prompt_is_a_rejection_with_its_reason():
    row = PromptRow(PromptRecord("length-000000", LONG, "length"))
    (done,) = condense(lambda r: "<think>short</think>Short prompt: *two red stars*")([row])
    assert done.condensed == "two red stars"
    (done,) = condense(lambda r: "I cannot do that.")([row])
    assert done.rejection.reason == Reason.REFUSED_ANSWER
    assert "I cannot do that." in done.rejection.detail


def test_pairs_that_the_verifier_denies_are_thrown_out_with_both_scores():
    stage = FilterPairs(FilterPairsConfig(), 0)
    # Probabilities of yes and no: by brightness, but for the images of the second pair.
    stage.verifier = YesNoVerifier(
        ScriptedVlm(lambda r: (0.2, 0.8) if r.images[0].mean() in (0, 254) else (0.9, 0.1)), "{prompt}?"
    )
    (done,) = stage([paired_row(num_pairs=2)])
    assert [p.rejection.reason if p.rejection else None for p in done.pairs] == [None, Reason.VERIFIER_DISAGREES]
    kept, lost = done.pairs
    assert kept.good_score == pytest.approx(np.log(9), abs=1e-4)
    assert kept.bad_score == pytest.approx(-np.log(4), abs=1e-4)
    assert lost.good_score is not None
    assert lost.bad_score is not None
    assert lost.good_score < lost.bad_score
    assert done.cost.verifier_calls == 4
    assert done.rejection is None


def test_a_margin_may_be_asked_of_the_verifier():
    stage = FilterPairs(FilterPairsConfig(min_margin=10.0), 0)
    stage.verifier = YesNoVerifier(ScriptedVlm(lambda r: (0.9, 0.1) if r.images[0].mean() else (0.1, 0.9)), "{prompt}?")
    (done,) = stage([paired_row()])
    assert done.rejection.reason == Reason.NO_PAIR_LEFT
    (lost,) = done.pairs
    assert lost.rejection.detail == "the good image scores 2.197, the bad one -2.197: no more than 10 better"
