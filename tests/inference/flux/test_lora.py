"""LoRAs of others: every tensor is used, or the file is refused with the tensor's name."""

from dataclasses import replace

import pytest
import torch
from diffusers import FluxPipeline
from safetensors.torch import load_file, save_file

from inference.editors.editor import EditorCorrectorConfig
from inference.flux.generator import FluxGeneratorConfig
from inference.flux.lora import WEIGHTS, fuse_lora
from inference.generators.diffusers_generator import DiffusersGeneratorConfig
from schemas.configuration import output_config
from schemas.errors import InputError
from tests.support.tiny_models import save_tiny_flux

IN_TRANSFORMER = "transformer.single_transformer_blocks.0.proj_mlp"
EMBEDDER = "transformer.x_embedder"
IN_TEXT = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def flux(tmp_path_factory):
    return save_tiny_flux(tmp_path_factory.mktemp("flux") / "flux")


@pytest.fixture
def pipeline(flux):
    return FluxPipeline.from_pretrained(flux, dtype=torch.float32)


def layer_of(pipeline, module):
    component, _, name = module.partition(".")
    model = getattr(pipeline, component)
    names = dict(model.named_modules())
    return names.get(name) or names[name.replace("text_model.", "")]


def lora(pipeline, module, rank=2, form="lora_A lora_B"):
    out_features, in_features = layer_of(pipeline, module).weight.shape
    down, up = form.split()
    return {
        f"{module}.{down}.weight": torch.randn(rank, in_features),
        f"{module}.{up}.weight": torch.randn(out_features, rank),
    }


def write(folder, tensors):
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / WEIGHTS)
    return folder


@pytest.mark.parametrize("form", ["lora_A lora_B", "lora.down lora.up"])
@pytest.mark.parametrize(
    "modules", [(IN_TRANSFORMER,), (IN_TEXT,), (IN_TRANSFORMER, "transformer.x_embedder", IN_TEXT)]
)
def test_all_of_a_lora_is_in_the_weights(pipeline, tmp_path, modules, form):
    if "." in form and IN_TEXT in modules:
        form = "lora_linear_layer.down lora_linear_layer.up"
    tensors, before = {}, {module: layer_of(pipeline, module).weight.detach().clone() for module in modules}
    for module in modules:
        tensors |= lora(pipeline, module, form=form if module == IN_TEXT else form.replace("lora_linear_layer", "lora"))
    fuse_lora(pipeline, write(tmp_path / "lora", tensors))
    for module in modules:
        down, up = (value for name, value in tensors.items() if name.startswith(f"{module}."))
        assert torch.allclose(layer_of(pipeline, module).weight, before[module] + up @ down, atol=1e-5)
    assert not any("lora" in name for name, _ in pipeline.transformer.named_modules())


def test_an_alpha_scales_what_is_added(pipeline, tmp_path):
    before = layer_of(pipeline, IN_TRANSFORMER).weight.detach().clone()
    tensors = lora(pipeline, IN_TRANSFORMER)
    down, up = tensors.values()
    fuse_lora(pipeline, write(tmp_path / "lora", tensors | {f"{IN_TRANSFORMER}.alpha": torch.tensor(1.0)}))
    assert torch.allclose(layer_of(pipeline, IN_TRANSFORMER).weight, before + up @ down / 2, atol=1e-5)


@pytest.mark.parametrize("strength", [0.5, 0.0, -1.0])
def test_a_strength_scales_what_is_added(pipeline, tmp_path, strength):
    before = layer_of(pipeline, IN_TRANSFORMER).weight.detach().clone()
    tensors = lora(pipeline, IN_TRANSFORMER)
    down, up = tensors.values()
    fuse_lora(pipeline, write(tmp_path / "lora", tensors), strength)
    assert torch.allclose(layer_of(pipeline, IN_TRANSFORMER).weight, before + strength * up @ down, atol=1e-5)


@pytest.mark.parametrize("strength", [float("nan"), float("inf")])
def test_a_strength_that_is_no_number_is_refused(pipeline, tmp_path, strength):
    with pytest.raises(InputError, match="lora_strength"):
        fuse_lora(pipeline, write(tmp_path / "lora", lora(pipeline, IN_TRANSFORMER)), strength)


@pytest.mark.parametrize("config", [FluxGeneratorConfig(), DiffusersGeneratorConfig(), EditorCorrectorConfig()])
def test_at_full_strength_keys_are_what_they_were(config):
    assert "lora_strength" not in output_config(config, {})
    assert output_config(replace(config, lora_strength=0.5), {})["lora_strength"] == 0.5


def without_prefix(tensors):
    return {name.removeprefix("transformer."): value for name, value in tensors.items()}


def elsewhere(tensors):
    return {name.replace("blocks.0.", "blocks.77."): value for name, value in tensors.items()}


BROKEN = {
    "keys without transformer.": (without_prefix, r"single_transformer_blocks.0.proj_mlp.lora_A.weight has no place"),
    "blocks that are not there": (elsewhere, r"single_transformer_blocks.77.proj_mlp"),
    "one matrix of two": (lambda t: dict(list(t.items())[:1]), r"proj_mlp has lora_A without its partner"),
    "the other of two": (lambda t: dict(list(t.items())[1:]), r"proj_mlp has lora_B without its partner"),
    "another rank": (lambda t: {n: v[:1] if "lora_A" in n else v for n, v in t.items()}, "proj_mlp has"),
    "another width": (
        lambda t: {n: v.repeat(1, 2) if "lora_A" in n else v for n, v in t.items()},
        "proj_mlp has",
    ),
    "the second text encoder": (
        lambda t: {n.replace("transformer.single", "text_encoder_2.single"): v for n, v in t.items()},
        r"text_encoder_2\.",
    ),
    "an alpha of nothing": (
        lambda t: t | {"transformer.norm_out.linear.alpha": torch.tensor(1.0)},
        "norm_out.linear.alpha",
    ),
    "what is no LoRA": (lambda t: {"transformer.x_embedder.weight": torch.zeros(2, 2)}, "does not fit|no place"),
    "a bias": (lambda t: t | {f"{IN_TRANSFORMER}.lora_B.bias": torch.zeros(4)}, r"lora_B.bias has no place"),
    "a magnitude": (lambda t: t | {f"{IN_TRANSFORMER}.dora_scale": torch.zeros(4)}, "DoRA|dora_scale"),
}


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("beside", [False, True])
def test_what_would_be_applied_in_part_is_refused_by_name(pipeline, tmp_path, broken, beside):
    change, said = BROKEN[broken]
    tensors = change(lora(pipeline, IN_TRANSFORMER)) | (lora(pipeline, EMBEDDER) if beside else {})
    before = {name: value.clone() for name, value in pipeline.transformer.state_dict().items()}
    with pytest.raises(InputError, match=rf"(?s)({said}).*a LoRA of the generator's model"):
        fuse_lora(pipeline, write(tmp_path / "lora", tensors))
    after = pipeline.transformer.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items() if name in after)


def test_a_kohya_file_is_used_whole_or_refused(pipeline, tmp_path):
    tensors = {
        "lora_unet_single_blocks_0_linear2.lora_down.weight": torch.randn(2, 4),
        "lora_unet_single_blocks_0_linear2.lora_up.weight": torch.randn(4, 2),
        "lora_unet_nobody_knows.lora_down.weight": torch.randn(2, 4),
    }
    with pytest.raises(InputError, match=r"in part|does not fit"):
        fuse_lora(pipeline, write(tmp_path / "lora", tensors))


def test_a_lora_without_numbers_is_refused(pipeline, tmp_path):
    tensors = lora(pipeline, IN_TRANSFORMER)
    folder = write(tmp_path / "lora", tensors)
    tensors = load_file(folder / WEIGHTS)
    tensors[f"{IN_TRANSFORMER}.lora_B.weight"][0, 0] = float("nan")
    with pytest.raises(InputError, match=rf"(?s){WEIGHTS}: tensor {IN_TRANSFORMER}.lora_B.weight holds values"):
        fuse_lora(pipeline, write(tmp_path / "lora", tensors))
