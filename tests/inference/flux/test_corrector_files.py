"""A corrector's LoRA between this code, diffusers and the published form: the same names, tensors and strength."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from peft import LoraConfig, get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from inference.flux.condition_config import ConditionConfig
from inference.flux.conditioning import ConditionedFlux, condition_ids
from inference.flux.corrector import (
    WEIGHTS,
    CorrectorDescription,
    FluxCorrector,
    FluxCorrectorConfig,
    load_lora,
    read_description,
    save_corrector,
)
from inference.flux.generator import FluxGenerator
from inference.flux.latents import encode_images
from inference.model_store import resolve_model
from microworld.family import micro_flux
from microworld.training.flux_guidance import velocity
from schemas.errors import InputError
from schemas.image_size import ImageSize

EVERYWHERE = ConditionConfig(lora_on="all", adapt_text=True, rank=4, alpha=4.0)
# The published layers (interop), as a pattern for peft, which puts the LoRA of the published training on FLUX.
PUBLISHED = (
    r"x_embedder"
    r"|transformer_blocks\.\d+\.(norm1\.linear|attn\.to_[qkv]|attn\.to_out\.0|ff\.net\.2)"
    r"|single_transformer_blocks\.\d+\.(norm\.linear|proj_mlp|proj_out|attn\.to_[qkv])"
)


def open_pipeline():
    """One of its own: adapters stay on a transformer."""
    return FluxPipeline.from_pretrained(resolve_model("micro/flux"))


@pytest.fixture(scope="module")
def generator():
    return FluxGenerator(micro_flux(num_steps=1, batch_size=1))


def saved(folder, base, condition):
    """A corrector's folder, with a LoRA that adds something."""
    model = ConditionedFlux(base, condition)
    torch.manual_seed(0)
    for parameter in model.lora.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    folder.mkdir()
    save_corrector(folder, model, CorrectorDescription(condition, 32, "micro/flux"))
    return folder


def published(folder, base, rank=8):
    """What the published training writes: peft's tensors through `save_lora_weights`, and nothing beside them."""
    base.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights=False, target_modules=PUBLISHED))
    write(folder, get_peft_model_state_dict(base))
    return folder


def write(folder, layers: Any):
    """layers: tensors by name."""
    FluxPipeline.save_lora_weights(folder, transformer_lora_layers=layers)


@pytest.mark.parametrize(
    "condition",
    [ConditionConfig(rank=4, alpha=4.0), ConditionConfig(rank=4, alpha=10.0), EVERYWHERE],
    ids=["condition", "another alpha", "all and text"],
)
def test_diffusers_loads_every_tensor_and_saves_the_same_file_again(generator, tmp_path, condition):
    folder = saved(tmp_path / "ours", generator.pipeline.transformer, condition)
    pipeline = open_pipeline()
    pipeline.load_lora_weights(str(folder), adapter_name="corrector")
    assert pipeline.transformer.peft_config["corrector"].lora_alpha == condition.alpha
    loaded = get_peft_model_state_dict(pipeline.transformer, adapter_name="corrector")
    write(tmp_path / "again", loaded)
    first, again = (load_file(tmp_path / name / WEIGHTS) for name in ("ours", "again"))
    assert first.keys() == again.keys()
    assert all(torch.equal(value.float(), again[name].float()) for name, value in first.items())
    assert {name.removeprefix("transformer.") for name in first} == set(loaded)


@pytest.mark.parametrize("alpha", [4.0, 10.0])
def test_on_all_tokens_diffusers_adds_it_as_strongly(generator, tmp_path, alpha):
    condition = replace(EVERYWHERE, alpha=alpha)
    folder = saved(tmp_path / "ours", generator.pipeline.transformer, condition)
    model = ConditionedFlux(generator.pipeline.transformer, condition)
    load_lora(model, folder)
    pipeline = open_pipeline()
    noise = torch.Generator().manual_seed(1)
    noisy, embeds, pooled = (torch.randn(*shape, generator=noise) for shape in ((2, 16, 16), (2, 7, 128), (2, 128)))
    t, guidance, ids = torch.tensor([0.3, 0.9]), torch.tensor([3.0, 1.0]), condition_ids(4, 4, 0)

    given = (noisy, t, guidance, embeds, pooled, ids, torch.zeros(7, 3))
    with torch.no_grad():
        plain = velocity(pipeline.transformer, *given)
        pipeline.load_lora_weights(str(folder))
        theirs = velocity(pipeline.transformer, *given)
        ours = model(noisy, t, guidance, embeds, pooled, ids, None, None)
    assert (theirs - plain).abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_folder_of_the_published_form_is_a_corrector_with_the_published_values(generator, tmp_path):
    folder = published(tmp_path, open_pipeline().transformer)
    corrector = FluxCorrector(FluxCorrectorConfig(str(folder)), generator)
    assert corrector.description == CorrectorDescription(ConditionConfig(rank=8, alpha=8.0))
    ours, file = corrector.model.lora.to_file_tensors(), load_file(folder / WEIGHTS)
    assert {f"transformer.{name}" for name in ours} == set(file)
    assert all(torch.equal(value, file[f"transformer.{name}"]) for name, value in ours.items())


def test_the_published_values_are_the_papers():
    """interop: rank 256, alpha = rank; joint attention, LoRA on the condition, to the left, 512 px, FLUX.1-dev."""
    assert CorrectorDescription() == CorrectorDescription(
        ConditionConfig("joint", "condition", "left", adapt_text=False, rank=256, alpha=256.0),
        512,
        "black-forest-labs/FLUX.1-dev",
        None,
    )


def test_the_rank_and_alpha_of_a_bare_file_are_its_own(generator, tmp_path):
    base = generator.pipeline.transformer
    for alpha in (4.0, 10.0):
        folder = saved(tmp_path / str(alpha), base, ConditionConfig(rank=4, alpha=alpha))
        (folder / "corrector.json").unlink()
        assert read_description(folder).condition == ConditionConfig(rank=4, alpha=alpha)


def test_only_another_alpha_than_the_rank_is_written_into_the_header(generator, tmp_path):
    for alpha, is_there in ((4.0, False), (10.0, True)):
        folder = saved(tmp_path / str(alpha), generator.pipeline.transformer, ConditionConfig(rank=4, alpha=alpha))
        with safe_open(folder / WEIGHTS, "pt") as file:
            assert ("lora_adapter_metadata" in file.metadata()) == is_there


def test_what_is_no_corrector_is_told(generator, tmp_path):
    def refused(message):
        with pytest.raises(InputError, match=message):
            FluxCorrector(FluxCorrectorConfig(str(tmp_path)), generator)

    refused("is no corrector: .*corrector.json")  # neither description nor weights
    (tmp_path / WEIGHTS).write_bytes(b"nothing")
    refused("does not read")
    save_file({"weight": torch.zeros(2, 2)}, tmp_path / WEIGHTS)
    refused("no corrector's LoRA")
    save_file({f"x_embedder.lora_{part}.weight": torch.zeros(2, 2) for part in "AB"}, tmp_path / WEIGHTS)
    refused("not this corrector's LoRA")  # of other layers
    (tmp_path / "corrector.json").write_text("{")
    refused("is no corrector")  # a description that does not read is not passed over


def test_what_the_published_search_does_otherwise_is_an_option_and_changes_the_image(generator, tmp_path):
    folder = saved(tmp_path / "ours", generator.pipeline.transformer, ConditionConfig(rank=4, alpha=4.0))
    flawed = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)

    def drawn(seed=7, **options):
        corrector = FluxCorrector(FluxCorrectorConfig(str(folder), **options), generator)
        return corrector.correct([flawed], ["a red circle"], ["make the circle blue"], [seed])[0]

    papers = drawn()
    options = [{"num_steps": 2}, {"condition_latents": "sample"}, {"separator": " [Reflexion]: "}]
    for option in [*options, {"clip_reads": "everything"}]:
        other = drawn(**option)
        assert not np.array_equal(other, papers), option
        assert np.array_equal(other, drawn(**option)), option
    assert np.array_equal(drawn(num_steps=generator.config.num_steps), papers)


def test_a_sampled_condition_depends_on_its_own_seed_alone(generator):
    images = [np.full((32, 32, 3), value, np.uint8) for value in (0, 90, 200)]
    together = encode_images(generator.pipeline, images, ImageSize(32, 32), "sample", [1, 2, 3])
    alone = encode_images(generator.pipeline, images[1:2], ImageSize(32, 32), "sample", [2])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-5, atol=1e-5)
    mode = encode_images(generator.pipeline, images[1:2], ImageSize(32, 32))
    assert not torch.equal(mode, alone)
