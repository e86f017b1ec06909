"""Which vLLMs a run needs, who asks them and needs no GPU for it, and how many of each stage's workers that makes."""

from dataclasses import replace

import pytest

from inference.vlm.vlm import VlmConfig
from pipelines.served_vlms import served_vlms
from recipes import catalogue

FLUX = replace(catalogue.load("flux", "dataset"), subsets=("length", "editing"), annotate=True)
SEARCH = catalogue.load("flux", "search")


def links(config):
    return {link.stage.name: link for chain in config.links().values() for link in chain}


def names(config):
    return [vlm.model for vlm in served_vlms(config)]


def test_stages_that_only_ask_a_vllm_or_an_endpoint_take_no_gpu():
    clients = {name for name, link in links(FLUX).items() if link.is_client}
    assert clients == {"condense_prompts", "caption_images", "write_reflections", "filter_pairs"}
    assert all(links(FLUX)[name].workers.gpus == 0 for name in clients)
    assert links(FLUX)["generate_candidates"].workers.gpus == 1
    away = VlmConfig(kind="endpoint", model="", endpoint_model="gpt", base_url="http://there/v1")
    assert {name for name, link in links(replace(FLUX, vlm=away)).items() if link.is_client} == clients
    assert served_vlms(links(replace(FLUX, vlm=away))["caption_images"].config) == ()
    here = replace(FLUX, vlm=replace(FLUX.vlm, kind="in-process"))
    assert not any(link.is_client for link in links(here).values())
    assert links(here)["caption_images"].workers.gpus == 1


@pytest.mark.parametrize(("share", "asked"), [(1.0, ["big", "small"]), (0.0, ["small"])])
def test_a_reflector_of_its_own_is_another_vllm(share, asked):
    reflect = replace(FLUX.reflect, reflector="small", cot_share=share)
    link = links(replace(FLUX, vlm=replace(FLUX.vlm, model="big"), reflect=reflect))["write_reflections"]
    assert sorted(names(link.config)) == asked
    own = replace(reflect, reflector_vlm=replace(FLUX.vlm, kind="in-process"))
    assert not links(replace(FLUX, reflect=own))["write_reflections"].is_client


def test_a_trained_verifier_works_in_the_stage_s_own_process():
    trained = replace(FLUX.filter.verifier, kinds=("trained",))
    link = links(replace(FLUX, filter=replace(FLUX.filter, verifier=trained)))["filter_pairs"]
    assert not link.is_client
    assert link.workers.gpus == 1
    assert served_vlms(link.config) == ()


def test_a_search_s_critic_and_verifier_share_one():
    (draft, *_) = SEARCH.links()["rule"]
    assert names(draft.config) == ["Qwen/Qwen2.5-VL-7B-Instruct"]
    assert not draft.is_client  # it draws


def test_a_search_s_flux_and_vllm_fit_a_gpu_together():
    (vlm,) = served_vlms(SEARCH.links()["rule"][0].config)
    assert vlm.gpus + SEARCH.workers.gpus <= 1
    assert 2 * SEARCH.workers.gpus > 1  # two FLUX would not fit
    assert 0.3 < vlm.gpu_memory < 0.5


def test_other_words_tokens_or_sampling_ask_the_same_vllm():
    vlm = FLUX.vlm
    assert replace(vlm, max_new_tokens=5, concurrency=2, max_images=1).server == vlm.server
    assert replace(vlm, vllm_arguments=("--max-model-len", "4096")).server != vlm.server
    assert replace(vlm, dtype="float16").server != vlm.server
