"""Checkpoints in the published Image-Verifier's layout: scores are those of the published code, bad files are named."""

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from commands.main import main
from inference.model_store import KNOWN_MODELS, model_digest
from inference.verifier import VerifierConfig
from inference.vlm import image_verifier
from inference.vlm.image_verifier import ImageVerifier, smart_resize, words_of
from inference.vlm.reward_checkpoint import (
    CheckpointSettings,
    DataSettings,
    ModelSettings,
    is_reward_checkpoint,
    read_settings,
    say_once,
    settings_file,
)
from inference.vlm.trained_verifier import TrainedVerifierConfig
from inference.vlm.vlm import VlmConfig
from schemas.configuration import model_names
from schemas.errors import InputError, MissingWeightsError
from schemas.images import decode_image
from tests.support.reward_checkpoints import CASES, PROMPTS, write_case

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "image_verifier.json").read_text())
IN_FLOAT32 = VlmConfig(kind="in-process", dtype="float32", device="cpu", batch_size=3)


@pytest.fixture(autouse=True)
def anew():
    say_once.cache_clear()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write_case(tmp_path_factory.mktemp("plain"), CASES["plain"])


@pytest.fixture
def broken(tmp_path):
    """A copy that a test may break; the checkpoint's folder."""
    return write_case(tmp_path, CASES["plain"]) / "verifier" / "checkpoint-120"


def images_of(root):
    """As the published code reads them: of 1.png, the one with alpha, the colours below it."""
    return [np.asarray(Image.open(path).convert("RGB")) for path in sorted((root / "images").iterdir())]


def verifier(root, **changes):
    return ImageVerifier(root / "verifier", **{"template": str(root / "template.txt"), "batch_size": 3} | changes)


def open_checkpoint(checkpoint):
    return verifier(checkpoint.parent.parent)


def change_settings(checkpoint, section, **values):
    path = settings_file(checkpoint)
    said = json.loads(path.read_text())
    path.write_text(json.dumps(said | {section: said.get(section, {}) | values}))


def change_tensors(path, change):
    pickled = path.suffix == ".pth"
    tensors = torch.load(path, weights_only=True) if pickled else load_file(path)
    change(tensors)
    torch.save(tensors, path) if pickled else save_file(tensors, path)


@pytest.mark.parametrize("name", CASES)
def test_scores_are_those_of_the_published_code_under_its_own_transformers(name, tmp_path):
    """Golden: tests/support/published_verifier.py, image by image; here in batches with other images."""
    root, case = write_case(tmp_path, CASES[name]), CASES[name]
    images = images_of(root)
    scorer = verifier(root, **({} if case.special else {"template": "rate"}))
    for prompt, golden in zip(PROMPTS, GOLDEN[name], strict=True):
        assert scorer.score(images, [prompt] * len(images)).tolist() == pytest.approx(golden, abs=2e-5)
    mixed = scorer.score(images[:2], list(PROMPTS))
    assert mixed.tolist() == pytest.approx([GOLDEN[name][0][0], GOLDEN[name][1][1]], abs=2e-5)


def test_the_command_prints_json_alone_and_scores_as_the_published_code(plain, capsys):
    files = [str(path) for path in sorted((plain / "images").iterdir())]
    argv = ["score", PROMPTS[0], *files, "--kind", "trained", "--verifier", str(plain / "verifier"), "--json"]
    assert main([*argv, "--template", str(plain / "template.txt"), "--device", "cpu"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["file"] for row in rows] == files
    # All but 1.png, which we lay on white.
    assert rows.pop(1)["score"] != pytest.approx(GOLDEN["plain"][0][1], abs=2e-2)
    opaque = [score for number, score in enumerate(GOLDEN["plain"][0]) if number != 1]
    assert [row["score"] for row in rows] == pytest.approx(opaque, abs=2e-5)


def test_without_the_words_ours_are_used_and_that_is_said_once(plain, caplog):
    scorer = verifier(plain, template="rate")
    assert scorer.text_of("a star").count("a star") == 1
    assert scorer.text_of("a star").endswith("<|VQ_reward|>")
    verifier(plain, template="rate")
    assert [r.message for r in caplog.records if "not ours to ship" in r.message] != []
    assert len([r for r in caplog.records if "not ours to ship" in r.message]) == 1


def test_words_that_are_not_the_published_ones_are_told_by_their_digest(tmp_path, caplog, monkeypatch):
    settings = CheckpointSettings(
        DataSettings(prompt_template_type="detailed_special"), ModelSettings("base", use_special_tokens=True)
    )
    text = "\nAll of it counts {text_prompt} <|VQ_reward|>\n"
    for name, content in (("a", text), ("b", text.replace("text_prompt", "prompt")), ("c", text.strip())):
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(image_verifier, "PUBLISHED_WORDS", hashlib.sha256(text.encode()).hexdigest())
    assert words_of(str(tmp_path / "a"), settings) == text
    words_of(str(tmp_path / "b"), settings)
    assert not caplog.records
    words_of(str(tmp_path / "c"), settings)
    assert "not the words that the published verifier was trained with" in caplog.text
    (tmp_path / "d").write_text("no place")
    with pytest.raises(InputError, match="no place for the prompt"):
        words_of(str(tmp_path / "d"), settings)


def test_a_search_opens_it_as_its_trained_verifier(plain):
    trained = TrainedVerifierConfig(str(plain / "verifier"), template=str(plain / "template.txt"))
    config = VerifierConfig(("trained",), trained=trained).only_what_is_used(IN_FLOAT32)
    assert str(plain / "base") in model_names(config)
    images = images_of(plain)[:2]
    assert config.open().score(images, PROMPTS[:1] * 2).tolist() == pytest.approx(GOLDEN["plain"][0][:2], abs=2e-5)


def test_log_odds_are_in_the_raw_score_s_unit(tmp_path):
    root = write_case(tmp_path, CASES["vision"])
    config = TrainedVerifierConfig(str(root / "verifier"), template=str(root / "template.txt"), vlm=IN_FLOAT32)
    images, (mean, std) = images_of(root)[:2], CASES["vision"].norm or (0, 1)
    log_odds = config.open().score(images, PROMPTS[:1] * 2)
    golden = np.array(GOLDEN["vision"][0][:2])
    assert log_odds.tolist() == pytest.approx((golden * std).tolist(), abs=2e-5)
    deviations = replace(config, scores="deviations").open().score(images, PROMPTS[:1] * 2)
    assert deviations.tolist() == pytest.approx(golden.tolist(), abs=2e-5)
    assert mean != 0


def test_the_checkpoint_s_own_folder_may_be_named_and_the_base_model_given(plain, tmp_path):
    moved = tmp_path / "moved"
    moved.mkdir()
    os.symlink(plain / "verifier" / "checkpoint-120", moved / "checkpoint-120")
    settings = json.loads((plain / "verifier" / "model_config.json").read_text())
    settings["model_config"]["model_name_or_path"] = "/of/somebody/else"
    (moved / "model_config.json").write_text(json.dumps(settings))
    template = str(plain / "template.txt")
    with pytest.raises(MissingWeightsError, match="names the base model '/of/somebody/else'"):
        ImageVerifier(moved, template=template)
    for folder in (moved, moved / "checkpoint-120"):
        assert is_reward_checkpoint(folder)
        scorer = ImageVerifier(folder, base=str(plain / "base"), template=template)
        (score,) = scorer.score(images_of(plain)[:1], PROMPTS[:1])
        assert score == pytest.approx(GOLDEN["plain"][0][0], abs=2e-5)


def test_a_step_that_is_not_there_gives_the_newest_and_says_so(plain, caplog):
    assert verifier(plain, step=120).score([], []).tolist() == []
    assert "no checkpoint of step" not in caplog.text
    (score,) = verifier(plain, step=77).score(images_of(plain)[:1], PROMPTS[:1])
    assert score == pytest.approx(GOLDEN["plain"][0][0], abs=2e-5)
    assert "no checkpoint of step 77; the newest, 120" in caplog.text
    with pytest.raises(InputError, match=r"checkpoint-40.non_lora_state_dict.pth: no such file"):
        verifier(plain, step=40)


def test_settings_beside_the_checkpoint_count_before_those_inside(broken, caplog):
    inside = broken / "model_config.json"
    inside.write_text(settings_file(broken).read_text())
    assert settings_file(broken) == broken.parent / "model_config.json"
    assert not caplog.records
    change_settings(broken, "data_config", max_frame_pixels=5000)
    assert read_settings(settings_file(broken)).data.max_frame_pixels == 5000
    assert "says something else" in caplog.text


def test_fewer_pixels_by_flag_change_the_score(plain):
    images = images_of(plain)[:1]
    few, many = (verifier(plain, max_pixels=n).score(images, PROMPTS[:1])[0] for n in (4000, 0))
    assert many == pytest.approx(GOLDEN["plain"][0][0], abs=2e-5)
    assert abs(few - many) > 1e-3


@pytest.mark.parametrize(
    ("height", "width", "most", "size"),
    [
        (224, 224, 76800, (224, 224)),
        (1024, 1024, 76800, (252, 252)),
        (13, 13, 76800, (56, 56)),
        (20, 33, 76800, (56, 84)),
        (42, 70, 76800, (56, 56)),  # both halves are rounded to even, and then it is large enough
        (30, 5000, 20000, (28, 1820)),
    ],
)
def test_sides_are_rounded_to_28(height, width, most, size):
    wide, high = smart_resize(np.zeros((height, width, 3), np.uint8), most).size
    assert (high, wide) == size


def test_an_absurdly_long_image_is_refused():
    with pytest.raises(InputError, match="an image of 2010x10 pixels"):
        smart_resize(np.zeros((10, 2010, 3), np.uint8), 76800)


def test_a_prompt_with_the_reward_token_is_refused(plain):
    with pytest.raises(InputError, match=r"2 times <\|VQ_reward\|>"):
        verifier(plain).score(images_of(plain)[:1], ["give me <|VQ_reward|>"])


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("went_off"),))


def test_a_pickle_that_would_run_code_is_refused_and_does_not(broken, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Bomb()}, broken / "non_lora_state_dict.pth")
    with pytest.raises(InputError, match=r"non_lora_state_dict.pth: is not read"):
        open_checkpoint(broken)
    assert not Path("went_off").exists()


LAYER = "base_model.model.model.layers.0.mlp.up_proj"


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("non_lora_state_dict.pth", lambda t: t.pop("base_model.model.rm_head.weight"), "no rm_head.weight"),
        ("non_lora_state_dict.pth", lambda t: t.update(extra=torch.zeros(2)), "pth: extra: the model has no such"),
        (
            "non_lora_state_dict.pth",
            lambda t: t.update({"base_model.model.rm_head.weight": torch.zeros(2, 32)}),
            r"rm_head.weight has the shape \(2, 32\)",
        ),
        (
            "non_lora_state_dict.pth",
            lambda t: t.update({"base_model.model.visual.merger.ln_q.weight": torch.zeros(5)}),
            r"ln_q.weight: \(5,\), where the model has \(16,\)",
        ),
        ("adapter_model.safetensors", lambda t: t.pop(f"{LAYER}.lora_B.weight"), "is lora_A alone"),
        (
            "adapter_model.safetensors",
            lambda t: t.update({f"{LAYER}.lora_A.weight": torch.zeros(4, 7)}),
            r"up_proj.weight: \(48, 7\), where the model has \(48, 32\)",
        ),
        (
            "adapter_model.safetensors",
            lambda t: t.update({f"{LAYER}.lora_A.weight": torch.zeros(5, 32)}),
            "peft_lora_config.lora_r",
        ),
        (
            "adapter_model.safetensors",
            lambda t: t.update({"base_model.model.visual.merger.mlp.0.lora_A.weight": torch.zeros(4, 64)}),
            "'visual' excludes",
        ),
        (
            "adapter_model.safetensors",
            lambda t: t.update({f"{LAYER}.lora_magnitude_vector": torch.zeros(4)}),
            "lora_magnitude_vector: the model has no such weight",
        ),
    ],
)
def test_every_tensor_is_used_or_refused_by_name(broken, file, change, said):
    change_tensors(broken / file, change)
    with pytest.raises(InputError, match=said):
        open_checkpoint(broken)


def test_what_is_missing_is_named(broken, tmp_path):
    (broken / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"adapter_model.safetensors: no such file"):
        open_checkpoint(broken)
    (broken.parent / "model_config.json").unlink()
    with pytest.raises(InputError, match=r"no model_config.json"):
        open_checkpoint(broken)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "model_config.json").write_text("{}")
    with pytest.raises(InputError, match="no checkpoint"):
        ImageVerifier(tmp_path / "empty")
    with pytest.raises(InputError, match="is no verifier"):
        TrainedVerifierConfig(str(tmp_path / "base"), vlm=IN_FLOAT32).open()


def test_a_whole_state_must_be_whole(tmp_path):
    root = write_case(tmp_path, CASES["whole"])
    path = root / "verifier" / "checkpoint-120" / "model.pth"
    change_tensors(path, lambda t: t.pop("base_model.model.model.norm.weight"))
    with pytest.raises(InputError, match=r"model.pth has no model.language_model.norm.weight"):
        verifier(root)


def test_a_token_that_nobody_trained_a_row_for_is_refused(tmp_path):
    root = write_case(tmp_path, CASES["grown"])
    checkpoint = root / "verifier" / "checkpoint-120"
    for name in ("non_lora_state_dict.pth", "adapter_model.safetensors"):
        change_tensors(
            checkpoint / name,
            lambda t: [t.pop(k) for k in list(t) if "embed_tokens" in k or "lm_head" in k],
        )
    with pytest.raises(InputError, match="no rows for 4 of the tokens"):
        verifier(root)


@pytest.mark.parametrize(
    ("section", "values", "field"),
    [
        ("model_config", {"output_dim": 2}, "model_config.output_dim"),
        ("model_config", {"use_special_tokens": "yes"}, "model_config.use_special_tokens"),
        ("model_config", {"use_special_tokens": False}, "model_config.reward_token"),
        ("peft_lora_config", {"lora_r": "many"}, "peft_lora_config.lora_r"),
        ("inference_config", {"VQ_std": 0}, "inference_config.VQ_std"),
        ("data_config", {"max_frame_pixels": -1}, "data_config.max_frame_pixels"),
    ],
)
def test_settings_that_mean_nothing_are_refused_by_field(broken, section, values, field):
    change_settings(broken, section, **values)
    with pytest.raises(InputError) as refused:
        read_settings(settings_file(broken))
    assert refused.value.field == field
    assert refused.value.file == str(broken.parent / "model_config.json")


def test_keys_that_nobody_knows_are_named_and_left_out(broken, caplog):
    change_settings(broken, "model_config", later_invention=3, output_dim=1)
    assert read_settings(settings_file(broken)).model.output_dim == 1
    assert "model_config.later_invention" in caplog.text


def test_the_digest_covers_base_settings_and_weights_and_no_pickle_of_the_trainer(broken):
    def digest(folder):
        model_digest.cache_clear()
        return model_digest(str(folder))

    whole, alone = digest(broken.parent), digest(broken)
    (broken / "training_args.bin").write_bytes(b"other")
    assert (digest(broken.parent), digest(broken)) == (whole, alone)
    change_settings(broken, "data_config", max_frame_pixels=5000)
    assert digest(broken.parent) != whole
    assert digest(broken) != alone
    whole = digest(broken.parent)
    (broken.parent.parent / "base" / "chat_template.json").write_text("{}")
    assert digest(broken.parent) != whole
    whole = digest(broken.parent)
    change_tensors(
        broken / "adapter_model.safetensors", lambda t: t.update({f"{LAYER}.lora_A.weight": torch.ones(4, 32)})
    )
    assert digest(broken.parent) != whole


def test_it_is_known_with_size_and_licence():
    known = KNOWN_MODELS["diffusion-cot/Image-Verifier"]
    assert "3.5 GB" in known.size
    assert "none stated" in known.licence


def test_an_image_that_is_not_rgb_is_converted_as_pil_does(plain, tmp_path):
    Image.open(plain / "images" / "0.png").convert("P").save(tmp_path / "p.png")
    image = decode_image((tmp_path / "p.png").read_bytes())
    assert np.isfinite(verifier(plain).score([image], PROMPTS[:1])).all()
