"""The critic that says what the verifier found: which sentences, how many, and when a VLM is asked after all."""

from dataclasses import replace

import numpy as np
import pytest

from inference.critic import CriticConfig
from inference.requirements.atom_critic import AtomCritic, AtomCriticConfig
from inference.search import NOTHING_WRONG, SearchConfig
from inference.vlm.critic import VlmCritic, VlmCriticConfig
from microworld.family import micro_vlm
from recipes import micro
from schemas.configuration import output_config
from schemas.errors import InputError
from schemas.records import AtomValue, PromptRecord, Question
from tests.support.vlm_rows import ScriptedVlm

IMAGE = np.zeros((8, 8, 3), np.uint8)
RECORD = PromptRecord("p", "a fox and a star", "rule", questions=(Question("How many foxes are there?", "two"),))
HOLDS, WORST, BAD = (
    AtomValue("object", "a ring", 0.9),
    AtomValue("object", "a star", 0.01, "Add a star."),
    AtomValue("color", "the fox is red", 0.2, "Make the fox red."),
)
SHAPES = (("ring", 0.1), ("moon", 0.2))
UNSURE = AtomValue("object", "a moon", 0.8, "Add a moon.")
ASKED = AtomValue("question", "How many foxes are there?", 0.1)


class Case:
    """A critic whose VLMs write down what they are asked."""

    def __init__(self, **changes):
        self.reflector = ScriptedVlm(lambda request: "Say the reflector's.")
        self.vlm = ScriptedVlm(lambda request: "Draw two foxes.")
        words = VlmCriticConfig(vlm=None, reflector="x", reflect="reflect_scored", refine="refine")
        self.critic = AtomCritic(AtomCriticConfig(**changes), VlmCritic(self.reflector, self.vlm, words, "{prompt}"))

    def say(self, *atoms, score=-1.0, reflect=True, refine=False):
        (remark,) = self.critic.remark(
            [IMAGE],
            [RECORD.text],
            ["now"],
            [score],
            explanations=["why"],
            atoms=[atoms],
            records=[RECORD],
            reflect=reflect,
            refine=refine,
        )
        return remark

    @property
    def calls(self):
        return len(self.reflector.requests), len(self.vlm.requests)


def test_what_fails_is_said_the_worst_first_and_nobody_is_asked():
    case = Case(max_told=0)
    remark = case.say(HOLDS, BAD, WORST, replace(BAD, value=0.3))
    assert remark.reflection == "Add a star. Make the fox red."
    assert case.calls == (0, 0)
    assert remark.cost.vlm_calls == remark.cost.vlm_prompt_tokens == 0
    assert Case(max_told=1).say(BAD, WORST).reflection == "Add a star."


def test_no_object_is_to_become_two_things():
    circle = AtomValue("object", "a circle", 0.1, "Replace the red star by a red circle.")
    blue = AtomValue("color", "the star is blue", 0.2, "Replace the red star by a blue star.")
    one_of = [AtomValue("count", name, value, f"Replace one red star by a {name}.") for name, value in SHAPES]
    assert Case().say(blue, circle).reflection == "Replace the red star by a red circle."
    assert Case().say(blue, BAD, circle).reflection == "Replace the red star by a red circle. Make the fox red."
    assert Case(max_told=0).say(*one_of).reflection == "Replace one red star by a ring. Replace one red star by a moon."


def test_an_image_that_meets_all_is_right_where_the_verifier_is_sure():
    case = Case(sure=2.0)
    assert case.say(HOLDS, UNSURE, score=2.0).reflection == NOTHING_WRONG
    assert case.say(HOLDS, UNSURE, score=1.9).reflection == "Add a moon."
    assert case.calls == (0, 0)
    assert case.say(HOLDS, score=1.9).reflection == "Say the reflector's."
    assert case.calls == (1, 0)


def test_failing_questions_are_told_to_the_vlm_where_nothing_else_is_known():
    case = Case()
    remark = case.say(HOLDS, ASKED)
    assert remark.reflection == "Draw two foxes."
    (request,) = case.vlm.requests
    assert "- How many foxes are there? Expected: two" in request.text
    assert "a ring" not in request.text
    assert remark.cost.vlm_calls == 1
    assert Case().say(ASKED, BAD).reflection == "Make the fox red."


def test_a_draft_without_atoms_is_the_other_critics():
    case = Case()
    assert case.say().reflection == "Say the reflector's."
    assert case.calls == (1, 0)


def test_a_refined_prompt_is_the_vlms_and_it_is_shown_what_was_said():
    case = Case()
    remark = case.say(WORST, refine=True)
    assert (remark.reflection, remark.prompt) == ("Add a star.", "Draw two foxes.")
    (request,) = case.vlm.requests
    assert 'A critic says of it: "Add a star."' in request.text
    only = Case()
    assert only.say(WORST, reflect=False, refine=True).prompt == "Draw two foxes."
    assert only.calls == (0, 1)


def tools(critic, *kinds):
    base = micro.search().tools
    assert base.critic is not None
    return replace(
        base, critic=replace(base.critic, kind=critic), verifier=replace(base.verifier, kinds=kinds or ("vlm",))
    )


def test_it_needs_the_verifier_that_finds_what_fails():
    search = SearchConfig(strategy="reflection")
    used = tools("atoms", "trained", "atoms").for_search(search, micro_vlm()).critic
    assert used is not None
    assert used.vlm is not None
    assert used.vlm.vlm == micro_vlm()
    with pytest.raises(InputError, match=r"--tools.verifier.kinds trained rules atoms"):
        tools("atoms", "trained", "rules").for_search(search, micro_vlm())
    tools("atoms").for_search(replace(search, strategy="noise"), micro_vlm())  # nobody reflects


def test_runs_of_before_keep_their_keys():
    used = tools("vlm").for_search(SearchConfig(strategy="reflection"), micro_vlm()).critic
    assert used is not None
    assert used.atoms is None
    assert "atoms" not in output_config(used, {})
    with pytest.raises(InputError, match="no configuration"):
        CriticConfig("atoms").only_what_is_used(micro_vlm())
    assert AtomCriticConfig().max_told >= 0
    with pytest.raises(InputError, match="max_told"):
        AtomCriticConfig(max_told=-1)
