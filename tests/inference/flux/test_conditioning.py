"""FLUX with a condition: nothing changes without one, the LoRA acts where it should, and `cached` is what it says."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from inference.flux.condition_config import ConditionConfig
from inference.flux.conditioning import ConditionedFlux, Lora, condition_ids, lora_targets
from inference.flux.latents import image_ids
from microworld.training.flux_guidance import velocity
from microworld.training.flux_model import build_transformer
from schemas.errors import InputError

CONFIG = ConditionConfig(rank=4, alpha=4.0)
CACHED = replace(CONFIG, attention="cached")


def transformer(guidance=True):
    """The micro architecture with every weight random: adaLN and the output too, so that everything has an effect."""
    torch.manual_seed(0)
    made = build_transformer()
    if not guidance:
        from diffusers import FluxTransformer2DModel

        made = FluxTransformer2DModel.from_config({**made.config, "guidance_embeds": False})
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.06)
    return made.eval()


@pytest.fixture(scope="module")
def base():
    return transformer()


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(1)

    def noise(*shape):
        return torch.randn(*shape, generator=generator)

    return {
        "noisy": noise(2, 16, 16),
        "timestep": torch.tensor([0.3, 0.9]),
        "guidance": torch.tensor([3.0, 1.0]),
        "prompt_embeds": noise(2, 7, 128),
        "pooled": noise(2, 128),
        "image_ids": image_ids(4, 4),
        "condition": noise(2, 16, 16),
        "condition_ids": condition_ids(4, 4, 4),
    }


def stir(model):
    """A LoRA that adds something."""
    torch.manual_seed(2)
    for parameter in model.lora.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def without(inputs):
    return inputs | {"condition": None, "condition_ids": None}


@pytest.mark.parametrize("guidance", [True, False])
@pytest.mark.parametrize("config", [CONFIG, CACHED])
def test_without_a_condition_the_result_is_the_transformers_own(inputs, config, guidance):
    plain = transformer(guidance)
    model = stir(ConditionedFlux(plain, config))
    with torch.no_grad():
        given = (inputs["noisy"], inputs["timestep"], inputs["guidance"] if guidance else None)
        text = (inputs["prompt_embeds"], inputs["pooled"])
        expected = velocity(plain, *given, *text, inputs["image_ids"], torch.zeros(7, 3))
        assert torch.equal(model(**without(inputs)), expected)


@pytest.mark.parametrize("config", [CONFIG, CACHED, replace(CONFIG, lora_on="all")])
def test_condition_and_lora_change_the_result(base, inputs, config):
    fresh, stirred = ConditionedFlux(base, config), stir(ConditionedFlux(base, config))
    with torch.no_grad():
        seen, unseen = fresh(**inputs), fresh(**without(inputs))
        assert (seen - unseen).abs().max() > 1e-3
        assert (stirred(**inputs) - seen).abs().max() > 1e-3
        other = fresh(**inputs | {"condition": -inputs["condition"]})
        assert (other - seen).abs().max() > 1e-3


def test_a_lora_that_adds_nothing_leaves_the_first_result_and_all_gradients_are_its_own(base, inputs):
    model = ConditionedFlux(base, CONFIG)
    model(**inputs).square().mean().backward()
    assert all(p.grad is None for p in base.parameters())
    ups = [p.grad for p in model.lora.up.values()]
    assert sum(g is not None and bool(g.abs().max() > 0) for g in ups) > len(ups) * 0.8
    assert {p for p in model.parameters() if p.requires_grad} == set(model.lora.parameters())


@pytest.mark.parametrize("text_copy", [True, False])
def test_a_prefix_that_was_kept_gives_what_computing_it_anew_gives(base, inputs, text_copy):
    model = stir(ConditionedFlux(base, replace(CACHED, text_copy=text_copy)))
    with torch.no_grad():
        prefix = model.prefix_of(
            inputs["prompt_embeds"], inputs["pooled"], inputs["condition"], inputs["condition_ids"]
        )
        for timestep in (inputs["timestep"], 1 - inputs["timestep"]):
            given = inputs | {"timestep": timestep}
            torch.testing.assert_close(model(**given, prefix=prefix), model(**given))
    assert prefix[0][0].shape[1] == 16 + 7 * text_copy


def test_only_with_a_text_copy_does_a_kept_prefix_depend_on_the_text(base, inputs):
    def first_keys(text_copy, embeds):
        model = stir(ConditionedFlux(base, replace(CACHED, text_copy=text_copy)))
        with torch.no_grad():
            prefix = model.prefix_of(embeds, inputs["pooled"], inputs["condition"], inputs["condition_ids"])
        return prefix[-1][0][:, -16:]

    for text_copy in (True, False):
        one, two = (first_keys(text_copy, e) for e in (inputs["prompt_embeds"], -inputs["prompt_embeds"]))
        assert (bool((one - two).abs().max() > 1e-4)) == text_copy


def test_the_condition_sees_neither_the_time_nor_the_guidance(base, inputs):
    model = stir(ConditionedFlux(base, CONFIG))
    zeros = torch.zeros(2)
    stream = model._condition_stream(inputs["condition"], inputs["condition_ids"], inputs["pooled"], zeros + 5)
    again = model._condition_stream(inputs["condition"], inputs["condition_ids"], inputs["pooled"], zeros + 1)
    torch.testing.assert_close(stream.temb, again.temb)


def test_the_condition_lies_to_the_left_of_the_image():
    ids = condition_ids(2, 3, 3)
    assert ids[:, 1].tolist() == [0, 0, 0, 1, 1, 1]
    assert ids[:, 2].tolist() == [-3, -2, -1, -3, -2, -1]


def test_targets_are_the_published_ones(base):
    names = list(lora_targets(base, CONFIG))
    assert len(names) == 1 + 2 * 6 + 4 * 6
    assert names[:3] == ["x_embedder", "transformer_blocks.0.norm1.linear", "transformer_blocks.0.attn.to_q"]
    assert len(list(lora_targets(base, replace(CONFIG, adapt_text=True)))) == len(names) + 2 * 6


def test_a_lora_is_saved_as_diffusers_loads_it_and_read_back(base, inputs, tmp_path):
    from diffusers import FluxPipeline
    from safetensors.torch import load_file

    model = stir(ConditionedFlux(base, CONFIG))
    layers: Any = model.lora.to_file_tensors()
    FluxPipeline.save_lora_weights(tmp_path, transformer_lora_layers=layers)
    tensors = load_file(tmp_path / "pytorch_lora_weights.safetensors")
    assert all(name.startswith("transformer.") for name in tensors)
    again = ConditionedFlux(base, CONFIG)
    again.lora.load_file_tensors(tensors)
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs), model(**inputs))
    with pytest.raises(InputError, match="not this corrector's LoRA"):
        Lora(base, replace(CONFIG, rank=8)).load_file_tensors(tensors)
