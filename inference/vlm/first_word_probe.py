"""Whether endpoints give log-probabilities, asked once before a run begins: verifiers that read how probable a Yes is
need them, and many servers have none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from inference.interfaces import ChatRequest
from inference.judges.questions_judge import QuestionsJudgeConfig
from inference.requirements.atom_verifier import AtomVerifierConfig
from inference.rewards.vqa_score import VqaScoreConfig
from inference.vlm.vlm import VlmConfig
from inference.vlm.yes_no_verifier import YesNoVerifierConfig
from schemas.configuration import nested_configs
from schemas.errors import AccessError, RequestFailedError

QUESTION = "Is three more than two? Answer Yes or No."
_INSTEAD = {
    YesNoVerifierConfig: "verifier 'vlm' needs them: `verifier.kinds prompted` is asked for scores in words, and "
    "`trained`, `rules` and `rewards` ask no endpoint",
    AtomVerifierConfig: "verifier 'atoms' needs them: `verifier.kinds prompted` is asked for scores in words, and "
    "`rules` asks no endpoint",
    VqaScoreConfig: "a reward of kind vqa-score needs them: leave it out (weight 0), or another kind",
    QuestionsJudgeConfig: "judge 'questions' needs them: another judge, or none (`--judge.kind none`)",
}


def probe_first_words(config: Any) -> None:
    """Ask each endpoint of a configuration one short question, where the probability of an answer's first word is to be
    read. AccessError where there is none, with what to do; whatever else is wrong shows later."""
    instead: dict[VlmConfig, str] = {}
    for vlm, why in _readers(config):
        instead.setdefault(vlm, why)
    for vlm, why in instead.items():
        _probe(vlm, why)


def _readers(config: Any) -> Iterator[tuple[VlmConfig, str]]:
    for one in nested_configs(config):
        why = _INSTEAD.get(type(one))
        if why and one.vlm is not None and one.vlm.endpoint_model:
            yield one.vlm.without_floor, why


def _probe(vlm: VlmConfig, why: str) -> None:
    import openai

    asked = replace(vlm, retries=0)
    try:
        with contextlib.suppress(openai.OpenAIError, RequestFailedError):
            asked.open().first_word_probabilities([ChatRequest(QUESTION)], ("Yes", "No"))
    except AccessError as error:
        if "log-probabilities" not in error.problem:
            raise
        raise AccessError(
            f"{vlm.endpoint_model} at {vlm.base_url} gives no log-probabilities",
            field=error.field,
            expected=f"a server that supports `logprobs` (vLLM does). {why[0].upper()}{why[1:]}",
        ) from None
