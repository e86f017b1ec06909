"""What may be averaged when several verifiers choose."""

from dataclasses import replace

import pytest

from inference.search import SearchConfig
from inference.verifier import VerifierConfig
from pipelines.stages.filter_pairs import FilterPairsConfig
from recipes import micro
from schemas.errors import InputError


def test_rewards_are_not_averaged_with_log_odds():
    verifier = VerifierConfig(("rewards", "rules"), rewards=micro.rewards(), rules=micro.grounding())
    tools = replace(micro.search().tools, verifier=verifier)
    for refused in (verifier.open, lambda: tools.for_search(SearchConfig(), micro.vlm())):
        with pytest.raises(InputError, match="scales of their own"):
            refused()
    with pytest.raises(InputError, match="scales of their own"):
        replace(micro.dataset(), annotate=True, filter=FilterPairsConfig(verifier)).links()
    # Side by side, each with scores of its own, they may stand.
    micro_search = replace(micro.search(), also_score=("rewards", "rules"))
    assert [link.stage.name for link in micro_search.links()["rule"]][-2] == "score_drafts"
