"""An OpenCLIP checkpoint gives the scores of the CLIPModel that it was made from."""

import numpy as np
import pytest
import torch

from inference.rewards.clip_reward import ClipReward, ClipRewardConfig
from inference.rewards.open_clip_loading import to_transformers
from schemas.errors import InputError

IMAGES = [np.random.default_rng(i).integers(0, 255, (32, 32, 3), np.uint8) for i in range(3)]
PROMPTS = ["a photo of a star", "two rings", "a red star"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two tiny CLIPs of one architecture and other weights."""
    from microworld.training.clip_rewards import RewardRecipe, build_clip, save

    made = []
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp(f"clip{seed}")
        torch.manual_seed(seed)
        model = build_clip(RewardRecipe(width=32, vision_layers=2, text_layers=1))
        for parameter in model.parameters():
            if parameter.ndim < 2:
                torch.nn.init.normal_(parameter, 1.0, 0.3)  # biases and norms, so that a swap shows
        save(model, folder)
        made.append(folder)
    return made


def as_open_clip(folder):
    """The folder's weights as OpenCLIP's `CLIP` names them, written out by hand for these two towers."""
    from transformers import CLIPModel

    old = CLIPModel.from_pretrained(folder, dtype=torch.float32).state_dict()
    new = {
        "logit_scale": old["logit_scale"],
        "token_embedding.weight": old["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": old["text_model.embeddings.position_embedding.weight"],
        "ln_final.weight": old["text_model.final_layer_norm.weight"],
        "ln_final.bias": old["text_model.final_layer_norm.bias"],
        "text_projection": old["text_projection.weight"].T,
        "visual.proj": old["visual_projection.weight"].T,
        "visual.class_embedding": old["vision_model.embeddings.class_embedding"],
        "visual.positional_embedding": old["vision_model.embeddings.position_embedding.weight"],
        "visual.conv1.weight": old["vision_model.embeddings.patch_embedding.weight"],
        "visual.ln_pre.weight": old["vision_model.pre_layrnorm.weight"],
        "visual.ln_pre.bias": old["vision_model.pre_layrnorm.bias"],
        "visual.ln_post.weight": old["vision_model.post_layernorm.weight"],
        "visual.ln_post.bias": old["vision_model.post_layernorm.bias"],
        "attn_mask": torch.zeros(1),
    }
    for tower, prefix, number in (("text_model", "", 1), ("vision_model", "visual.", 2)):
        for i in range(number):
            a, b = f"{tower}.encoder.layers.{i}", f"{prefix}transformer.resblocks.{i}"
            for kind in ("weight", "bias"):
                qkv = [old[f"{a}.self_attn.{name}_proj.{kind}"] for name in ("q", "k", "v")]
                new[f"{b}.attn.in_proj_{kind}"] = torch.cat(qkv)
                new[f"{b}.attn.out_proj.{kind}"] = old[f"{a}.self_attn.out_proj.{kind}"]
                new[f"{b}.ln_1.{kind}"] = old[f"{a}.layer_norm1.{kind}"]
                new[f"{b}.ln_2.{kind}"] = old[f"{a}.layer_norm2.{kind}"]
                new[f"{b}.mlp.c_fc.{kind}"] = old[f"{a}.mlp.fc1.{kind}"]
                new[f"{b}.mlp.c_proj.{kind}"] = old[f"{a}.mlp.fc2.{kind}"]
    return {name: tensor.clone() for name, tensor in new.items()}


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_checkpoint_over_another_model_s_folder_scores_as_its_own_model(folders, tmp_path, wrapped):
    first, second = folders
    tensors = as_open_clip(second)
    path = tmp_path / "open_clip.pt"
    torch.save({"state_dict": {f"module.{n}": t for n, t in tensors.items()}} if wrapped else tensors, path)
    over = ClipReward(ClipRewardConfig(model=str(first), checkpoint=str(path), batch_size=4))
    own = ClipReward(ClipRewardConfig(model=str(second), batch_size=4))
    assert over.score(IMAGES, PROMPTS) == pytest.approx(own.score(IMAGES, PROMPTS), rel=1e-5)
    assert own.score(IMAGES, PROMPTS) != pytest.approx(
        ClipReward(ClipRewardConfig(model=str(first), batch_size=4)).score(IMAGES, PROMPTS), rel=1e-3
    )


def test_other_checkpoints_are_refused(folders, tmp_path):
    with pytest.raises(InputError, match=r"unknown tensor 'visual.trunk.weight'"):
        to_transformers({"visual.trunk.weight": torch.zeros(1)})
    tensors = as_open_clip(folders[1])
    del tensors["visual.ln_pre.bias"]
    torch.save(tensors, tmp_path / "half.pt")
    with pytest.raises(InputError, match="not those of"):
        ClipReward(ClipRewardConfig(model=str(folders[0]), checkpoint=str(tmp_path / "half.pt")))
    (tmp_path / "text.pt").write_text("no checkpoint")
    with pytest.raises(InputError, match="not a checkpoint of plain tensors"):
        ClipReward(ClipRewardConfig(model=str(folders[0]), checkpoint=str(tmp_path / "text.pt")))
