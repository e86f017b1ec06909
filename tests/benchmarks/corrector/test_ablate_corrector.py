"""The ablation: one thing changes at a time, what is done is not done again, and the table compares like with like."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.corrector import ablate_corrector, corrector_gain
from benchmarks.corrector.ablate_corrector import (
    CHOICES,
    Arguments,
    config_of,
    datasets_of,
    has_meaning,
    in_form,
)
from benchmarks.corrector.ablation_table import Measured, tabulate
from inference.flux.condition_config import ConditionConfig
from inference.flux.corrector import WEIGHTS, FluxCorrector, FluxCorrectorConfig
from inference.flux.generator import FluxGenerator
from inference.model_store import resolve_model
from microworld.family import micro_flux
from microworld.scenes import evaluation_split
from schemas.errors import InputError
from tests.support.micro_shards import write_micro_shards
from trainers.shard_index import SUBSETS

OF_THE_MIX = [c for c in CHOICES if c.startswith(("no task", "without", "a tenth", "general", "editing"))]


def differences(one, other, path=""):
    """Names of the fields in which two frozen configurations differ."""
    if not hasattr(one, "__dataclass_fields__"):
        return [] if one == other else [path]
    names = one.__dataclass_fields__
    return [found for n in names for found in differences(getattr(one, n), getattr(other, n), f"{path}.{n}".strip("."))]


@pytest.mark.parametrize("choice", CHOICES)
def test_a_choice_changes_one_thing(choice, tmp_path):
    arguments = Arguments("data", out=tmp_path)
    base, changed = (config_of(arguments, name, 0, 800) for name in ("base", choice))
    assert {name.partition(".")[0] for name in differences(base, changed)} - {"out"} <= {"mix", "batch", "condition"}
    assert 1 <= len([name for name in differences(base, changed) if name != "out"]) <= 3
    assert base.loop.seed != config_of(arguments, choice, 1, 800).loop.seed


@pytest.mark.parametrize(
    ("present", "left_out"),
    [
        (SUBSETS, set()),
        (("rule", "editing"), {"without general", "without length"}),
        (("editing",), set(OF_THE_MIX)),
        (("rule", "general"), {"without length", "without editing", "editing alone"}),
    ],
)
def test_choices_of_the_mix_that_the_data_does_not_bear_are_left_out(present, left_out):
    arguments = Arguments("data")
    mixes = {choice: config_of(arguments, choice, 0, 80).mix for choice in ("base", *CHOICES)}
    assert {c for c, mix in mixes.items() if not has_meaning(mix, mixes["base"], present)} == left_out


def test_choices_of_form_go_on_from_the_corrector_brought_into_it(tmp_path):
    arguments = Arguments("data", out=tmp_path, start_from="micro/corrector")
    starts = {choice: config_of(arguments, choice, 1, 800).start_from for choice in ("base", *CHOICES)}
    of_form = {choice for choice, start in starts.items() if start != "micro/corrector"}
    assert of_form == {c for c in CHOICES if c.startswith(("rank", "LoRA", "condition", "cached"))}
    assert len({starts[choice] for choice in of_form}) == len(of_form)


@pytest.mark.parametrize(
    ("condition", "layers", "error"),
    [
        (ConditionConfig("joint", "all", "over", True, True, 128, 64.0), "all", 1e-6),
        (ConditionConfig("joint", "all", "over", True, True, 8, 8.0), "all", None),
        (ConditionConfig("cached", "condition", "left", True, False, 32, 32.0), "image", 1e-6),
    ],
)
def test_a_corrector_is_brought_into_another_form(condition, layers, error, tmp_path):
    """What the LoRA adds to each layer stays, or is the nearest of its rank."""
    source = resolve_model("micro/corrector")
    transformer = FluxGenerator(micro_flux()).pipeline.transformer
    in_form(source, condition, transformer, tmp_path)
    old, new = (load_file(folder / WEIGHTS) for folder in (source, tmp_path))
    layer = "transformer.transformer_blocks.0.attn.{}.lora_{}.weight"
    assert (layer.format("add_q_proj", "A") in new) == (layers == "all")
    before = old[layer.format("to_q", "B")].float() @ old[layer.format("to_q", "A")].float()
    after = new[layer.format("to_q", "B")].float() @ new[layer.format("to_q", "A")].float()
    after = after * condition.alpha / condition.rank
    if error is None:
        values = torch.linalg.svdvals(before)
        assert (before - after).norm() == pytest.approx(values[condition.rank :].norm().item(), rel=2e-2)
    else:
        assert (before - after).abs().max() <= error + 1e-2 * before.abs().max()
    loaded = FluxCorrector(FluxCorrectorConfig(str(tmp_path)), FluxGenerator(micro_flux()))
    assert loaded.description.condition == condition


def test_a_choice_may_be_other_data():
    arguments = Arguments("data", datasets=("near=runs/near",))
    base, near = (config_of(arguments, name, 0, 80) for name in ("base", "near"))
    assert (base.data, near.data) == ("data", "runs/near")
    assert {name for name in differences(base, near) if name != "out"} == {"data"}
    for wrong in (("near",), ("=x",), ("a=b", "a=c"), ("base=b",), ("cached=b",)):
        with pytest.raises(InputError, match="NAME=PLACE"):
            datasets_of(Arguments("data", datasets=wrong))


def test_any_choice_may_be_what_the_others_are_compared_with():
    runs = [
        measured("base", 0, [0.5, 0.5, 0.5]),
        measured("near", 0, [0.5, 0.0, 0.0]),
        measured("cached", 0, [0.5, 1, 0]),
    ]
    figures = tabulate(runs, ["x", "y", "y"], "cached", {"near"})
    assert figures["cached"]["against_base"] is None
    assert figures["near"]["against_base"]["turned_right"]["value"] == pytest.approx(-1 / 3, abs=1e-4)
    assert "held_out" not in figures["near"]["against_base"]  # other data: other samples
    assert "held_out" in figures["base"]["against_base"]


def measured(choice, seed, right, held_out=(0.5, 0.6), images="a b c"):
    turned = {"again": [0.0, 0.5, 0.5], "right": right, "empty": [0.0, 0.0, 0.5], "wrong": [0.0, 0.0, 0.0]}
    return Measured(choice, seed, 10, 1.0, list(held_out), turned, [0.5, 1.0], images)


def test_choices_are_compared_with_the_base_of_the_same_seeds():
    runs = [
        measured("base", 0, [0.5, 0.5, 0.5]),
        measured("base", 1, [0.5, 0.5, 1.0]),
        measured("rank 8", 0, [0.5, 0.0, 0.0], held_out=(0.6, 0.7)),
        measured("rank 8", 1, [0.5, 0.5, 0.5], held_out=(0.6, 0.7)),
    ]
    figures = tabulate(runs, ["x", "y", "y"])
    assert figures["base"]["turned_right"]["value"] == pytest.approx(7 / 12, abs=1e-4)
    assert figures["base"]["against_base"] is None
    against = figures["rank 8"]["against_base"]
    assert against["turned_right"]["value"] == pytest.approx(-1.5 / 6, abs=1e-4)
    assert against["held_out"] == pytest.approx({"value": 0.1, "low": 0.1, "high": 0.1})
    assert figures["rank 8"]["runs"] == 2
    assert against["turned_right_by_seed"] == [pytest.approx(-1 / 3, abs=1e-4), pytest.approx(-1 / 6, abs=1e-4)]
    with pytest.raises(InputError, match="different wrong images"):
        tabulate([*runs, measured("cached", 0, [0, 0, 0], images="a b d")], ["x", "y", "y"])


def test_a_choice_of_one_seed_is_compared_with_that_seeds_base_and_the_start_with_all():
    runs = [
        measured("the start", 0, [1.0, 1.0, 1.0], held_out=()),
        measured("base", 0, [0.5, 0.5, 0.5]),
        measured("base", 1, [0.5, 0.5, 1.0]),
        measured("cached", 1, [0.5, 0.5, 0.5]),
        measured("rank 8", 2, [0.5, 0.5, 0.5]),
    ]
    figures = tabulate(runs, ["x", "y", "y"])
    assert set(figures) == {"the start", "base", "cached"}
    assert figures["cached"]["against_base"]["turned_right_by_seed"] == [pytest.approx(-1 / 6, abs=1e-4)]
    assert figures["the start"]["against_base"]["turned_right"]["value"] == pytest.approx(5 / 12, abs=1e-4)
    assert figures["the start"]["held_out_loss"] is None


@pytest.mark.slow
def test_what_is_done_is_kept_and_not_done_again(tmp_path, monkeypatch, capsys):
    shards = write_micro_shards(tmp_path / "data", 24)
    prompts = evaluation_split.dev_prompts()[90:240:30]
    monkeypatch.setitem(evaluation_split.SPLITS, "micro-dev", lambda: prompts)
    generator = micro_flux(num_steps=1, batch_size=8)
    gain = corrector_gain.Arguments((), per_prompt=1, tries=1, open_prompts=1, reflector="", generator=generator)
    small = Arguments(str(shards), steps=1, seeds=(0,), start_from="micro/corrector", only=("cached",), gain=gain)
    small = replace(small, out=tmp_path / "out", num_held_out=4)
    monkeypatch.setattr(ablate_corrector.tyro, "cli", lambda *a, **k: small)
    saved = []
    monkeypatch.setattr(ablate_corrector, "save", lambda name, about, figures, **more: saved.append(figures))
    monkeypatch.setattr(sys, "argv", ["x"])
    monkeypatch.setattr(
        ablate_corrector, "base_config", lambda a, seed, made=ablate_corrector.base_config: shrunk(made(a, seed))
    )
    ablate_corrector.main()
    assert set(saved[-1]) == {"the start", "base", "cached"}
    assert "cached" in capsys.readouterr().out
    for name in ("open_training", "measure"):
        monkeypatch.setattr(ablate_corrector, name, None)  # nothing is left to be done
    ablate_corrector.main()
    assert saved[-1] == saved[1]
    assert np.isfinite(saved[-1]["cached"]["held_out_loss"])
    more = replace(small, seeds=(0, 1), only=("cached", "rank 8"), train=False)
    monkeypatch.setattr(ablate_corrector.tyro, "cli", lambda *a, **k: more)
    ablate_corrector.main()
    assert saved[-1] == saved[1]


def shrunk(config):
    return replace(config, loop=replace(config.loop, batch_size=4, micro_batch=4), held_out_share=0.4)
