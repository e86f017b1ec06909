"""A search that goes on from its blocks asks its VLM what one that was never stopped asks, the verifier's reasons
included: a real server on loopback hears both."""

import json
import re
from dataclasses import replace

from inference.generator import GeneratorConfig
from inference.search import SearchConfig
from inference.search_tools import SearchToolsConfig
from inference.verifier import RewardVerifier
from inference.vlm.criteria import RUBRICS
from inference.vlm.critic import VlmCritic, VlmCriticConfig
from inference.vlm.endpoint import EndpointConfig, EndpointVlm
from inference.vlm.prompted_verifier import PromptedVerifier
from inference.vlm.prompts import load_prompt
from microworld.family import micro_flux
from pipelines.stages.draft_round import DraftRound, DraftRoundConfig
from schemas.blocks import attach_images, decode_block, decode_images, encode_block, footer_of
from schemas.images import sha256
from schemas.records import PromptRecord, PromptRow
from tests.support.chat_server import chat_server, says, text_of
from tests.support.scripted_search import Bright, tools

ROWS = [
    PromptRow(PromptRecord("rule-000000", "a photo of a red star", "rule", "colors")),
    PromptRow(PromptRecord("rule-000001", "a photo of two rings", "rule", "counting")),
]


def judged(payload, number):
    """Marks for as many images as there are, or a sentence, by what is asked."""
    text = text_of(payload)
    if "response_format" not in payload:
        return says(f"Paint it red ({len(text)}).")
    schema = payload["response_format"]["json_schema"]["schema"]
    names = re.findall(r"^- (\w+):", text, re.MULTILINE)
    shown = [part for part in payload["messages"][-1]["content"] if part["type"] == "image_url"]
    marks = [
        {
            name: {"score": 1 + i, "explanation": f"{name} of {sha256(image['image_url']['url'].encode())}"}
            for name in names
        }
        for i, image in enumerate(shown)
    ]
    assert list(schema["properties"]) == (["images"] if len(shown) > 1 else names)
    return says(json.dumps({"images": marks} if len(shown) > 1 else marks[0]))


def through_a_block(rows):
    data = encode_block(footer_of("draft_round", "k", 0, "", rows), rows, with_images=True)
    _, bare = decode_block(data, "block")
    assert bare[0].candidates[0].image is None
    return attach_images(bare, decode_images(data, "block"))


def searched(kept):
    """The rows after three rounds, and all that was asked."""
    search = SearchConfig(2, 3, "noise+prompt+reflection")
    flux = GeneratorConfig("flux", micro_flux(num_steps=4))
    with chat_server(judged) as server:
        vlm = EndpointVlm(EndpointConfig(server.base_url, "judge"))
        stage = DraftRound(DraftRoundConfig(search, SearchToolsConfig(generator=flux)), 5)
        critic = VlmCritic(vlm, vlm, VlmCriticConfig())
        stage.tools = tools(verifier=PromptedVerifier(vlm, load_prompt("judge"), 2), critic=critic)
        rows = ROWS
        for _ in range(search.depth):
            rows = kept(stage(rows))
        return rows, sorted(json.dumps(payload, sort_keys=True) for payload in server.payloads)


def test_a_search_that_goes_on_from_its_blocks_asks_the_same():
    rows, asked = searched(lambda rows: rows)
    again, asked_again = searched(through_a_block)
    assert asked_again == asked
    assert [[replace(c, image=None) for c in row.candidates] for row in again] == [
        [replace(c, image=None) for c in row.candidates] for row in rows
    ]
    texts = [text_of(json.loads(payload)) for payload in asked]
    assert sum("overall_score: how well" in text for text in texts) == 2 * 3  # a round's two images in one request
    for row, tag in zip(rows, ("colors", "counting"), strict=True):
        for candidate in row.candidates[:4]:  # those of the last round, nobody speaks of
            why = candidate.search.explanation or ""
            assert all(f"{name.replace('_', ' ')} " in why for name in RUBRICS[tag])
            assert sum(why in text for text in texts) == 2  # reflector and refiner


def test_caps_quality_and_relative_scores_are_told_from_the_blocks():
    search = SearchConfig(2, 6, max_edits=1, max_quality_drop=1000.0)
    flux = GeneratorConfig("flux", micro_flux(num_steps=4))

    def rounds(kept):
        stage = DraftRound(DraftRoundConfig(search, SearchToolsConfig(generator=flux)), 5)
        rewards = RewardVerifier({"bright": Bright(), "dark": Dark()})
        stage.tools = tools(verifier=rewards, quality=Bright())
        rows = ROWS
        for _ in range(search.depth):
            rows = kept(stage(rows))
        return [[(c.search, c.rewards) for c in row.candidates] for row in rows]

    whole = rounds(lambda rows: rows)
    assert rounds(through_a_block) == whole
    steps = [step for row in whole for step, _ in row]
    assert {step.restart for step in steps} == {None, "edits"}
    assert all(step.quality is not None and len(step.parts) == 2 for step in steps)


class Dark(Bright):
    """The other way round, on another scale."""

    def score(self, images, prompts):
        return -7 * super().score(images, prompts) ** 0.5
