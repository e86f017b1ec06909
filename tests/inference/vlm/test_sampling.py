"""Sampling in process: transformers' distribution, and an answer that its request and seed decide alone."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from inference.interfaces import ChatRequest
from inference.vlm.in_process import InProcessVlm
from inference.vlm.pictures import shrink
from inference.vlm.sampling import RETRY_TEMPERATURE, Sampling, SeededSampler
from inference.vlm.vlm import VlmConfig
from microworld.family import micro_qwen, micro_vlm
from schemas.configuration import output_config
from schemas.errors import InputError
from tests.support.tiny_vlm import save_tiny_vlm

HOT = Sampling(temperature=1.5, top_p=0.95, top_k=50, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(save_tiny_vlm(tmp_path_factory.mktemp("vlm")))


def vlm_of(folder, **changes):
    return InProcessVlm(micro_qwen(model=folder, max_new_tokens=8, batch_size=3, answer_floor=0.0, **changes))


def requests():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (32, 32, 3)).astype(np.uint8) for _ in range(3)]
    return [
        *(ChatRequest("Is there a red star?", (image,)) for image in images),
        ChatRequest("Condense the prompt."),
        ChatRequest("What differs?", tuple(images[:2]), system="Be short."),
    ]


def test_temperature_top_k_and_top_p_mean_what_they_mean_in_transformers():
    torch.manual_seed(0)
    scores: Any = torch.randn(1, 40) * 2
    unread: Any = None
    warped = TemperatureLogitsWarper(0.8)(unread, scores)
    warped = TopPLogitsWarper(0.7)(unread, TopKLogitsWarper(20)(unread, warped))
    expected = warped.softmax(-1)[0]
    rows = 4000
    sampler = SeededSampler(Sampling(0.8, 0.7, 20), [0.8] * rows, range(rows), prompt_length=5, most=2)
    for length in (5, 6):
        drawn = sampler(torch.zeros(rows, length), scores.expand(rows, -1)).argmax(-1)
        found = torch.bincount(drawn, minlength=40) / rows
        assert (found[expected == 0] == 0).all()
        assert (found - expected).abs().max() < 4 * (0.25 / rows) ** 0.5


def test_a_sampled_answer_depends_on_its_request_alone(folder):
    vlm = vlm_of(folder, sampling=HOT)
    answers = vlm.answer(requests())
    assert [vlm.answer([request])[0] for request in requests()] == answers
    assert vlm.answer(requests()[::-1]) == answers[::-1]
    assert len({answer.text for answer in answers[:3]}) == 3  # images are part of the seed


def test_another_seed_or_attempt_gives_another_answer(folder):
    request = requests()[0]
    texts = {vlm_of(folder, sampling=replace(HOT, seed=seed)).answer([request])[0].text for seed in range(3)}
    texts |= {vlm_of(folder, sampling=HOT).answer([replace(request, attempt=n)])[0].text for n in (1, 2)}
    assert len(texts) >= 4


def test_greedy_and_sampled_requests_share_a_batch(folder):
    vlm = vlm_of(folder)
    asked = [replace(request, attempt=i % 2) for i, request in enumerate(requests())]
    greedy = vlm.answer(requests())
    together = vlm.answer(asked)
    assert together[::2] == greedy[::2]
    assert together == [vlm.answer([request])[0] for request in asked]
    assert Sampling().temperature_of(1) == RETRY_TEMPERATURE
    assert Sampling(0.3).temperature_of(1) == 0.3


def test_probabilities_of_first_words_know_no_sampling(folder):
    plain, hot = (
        vlm_of(folder, **way).first_word_probabilities(requests(), ["Yes", "No"]) for way in ({}, {"sampling": HOT})
    )
    assert np.array_equal(plain, hot)


def test_larger_images_are_shrunk_before_they_are_shown(folder):
    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3)).astype(np.uint8)
    small = shrink(image, 32 * 32)
    assert small.shape == (27, 36, 3)
    assert shrink(small, 32 * 32) is small
    assert shrink(image, 0) is image
    assert shrink(np.zeros((1, 5000, 3), np.uint8), 100).shape[0] == 1
    vlm = vlm_of(folder, max_image_pixels=32 * 32)
    asked, by_hand = (vlm.answer([ChatRequest("Describe the image.", (one,))]) for one in (image, small))
    assert asked == by_hand
    unlimited = vlm_of(folder).answer([ChatRequest("Describe the image.", (image,))])
    assert unlimited[0].num_prompt_tokens > asked[0].num_prompt_tokens


def test_sampling_reaches_the_model_by_the_configuration_and_is_part_of_what_a_run_is(folder):
    config = micro_vlm(folder, max_new_tokens=8, temperature=1.5, top_p=0.95, top_k=50, seed=3, max_image_pixels=900)
    assert config.open().answer(requests()) == vlm_of(folder, sampling=HOT, max_image_pixels=900).answer(requests())
    counted = output_config(config, {})
    assert counted.keys() >= {"temperature", "top_p", "top_k", "seed", "max_image_pixels", "image_format", "extra_body"}
    assert not counted.keys() & {"retries", "headers", "timeout_s", "api_key_env", "base_url"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_k": -1},
        {"max_image_pixels": -1},
        {"extra_body": "[]"},
        {"extra_body": '{"messages": []}'},
        {"extra_body": "{"},
        {"api_key_env": "sk-secret-value"},
        {"headers": ("Authorization: Bearer sk-secret-value",)},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(InputError) as refused:
        VlmConfig(**wrong)
    (name,) = wrong
    assert name in (refused.value.field or "")
    assert "sk-secret" not in str(refused.value)
