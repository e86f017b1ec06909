"""Presets name what they say, survive run.json, and say nothing of the micro family unless they are its own."""

import dataclasses
import importlib
import json
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, get_args

import pytest

import inference
import pipelines
import schemas
import trainers
from commands.main import main
from inference.verifier import VerifierKind
from pipelines.jobs import DatasetConfig
from pipelines.search_job import SearchJobConfig
from recipes import catalogue
from schemas.arrow import record_from_dict
from schemas.errors import InputError

PARTS = get_args(catalogue.Part)
SAID = [(name, part) for name in catalogue.names() for part in PARTS if name in catalogue.names(part)]


@pytest.mark.parametrize("name", catalogue.names("dataset"))
def test_a_preset_survives_run_json(name):
    dataset = catalogue.load(name, "dataset")
    text = json.dumps(asdict(dataset))
    again = record_from_dict(DatasetConfig, json.loads(text))
    assert json.dumps(asdict(again)) == text
    assert again.ground.workers == dataset.ground.workers
    assert again.generate == dataset.generate


@pytest.mark.parametrize("name", catalogue.names("search"))
def test_a_preset_s_search_survives_run_json(name):
    search = catalogue.load(name, "search")
    again = record_from_dict(SearchJobConfig, json.loads(json.dumps(asdict(search))))
    assert again == search


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="unknown preset 'fluxx'") as refused:
        catalogue.load("fluxx", "dataset")
    assert refused.value.expected == " or ".join(catalogue.names("dataset"))
    assert {"micro", "flux", "flux-24gb"} <= set(catalogue.names("dataset"))


def test_a_preset_that_says_nothing_for_a_part_is_refused_with_those_that_do():
    with pytest.raises(InputError, match="'schnell' says nothing for drift clip") as refused:
        catalogue.load("schnell", "drift_clip")
    assert refused.value.field == "--preset"
    assert refused.value.expected == "flux or micro"


def test_what_is_not_said_may_have_another_value():
    nothing = object()
    assert catalogue.load_or("schnell", "dataset", nothing) is nothing
    assert catalogue.load_or("gone", "dataset", nothing) is nothing
    assert catalogue.load_or("micro", "dataset", nothing) == catalogue.load("micro", "dataset")


def test_the_catalogue_names_its_files_and_the_first_one_is_micro():
    assert {"flux", "flux-24gb", "micro", "schnell"} <= set(catalogue.names())
    assert "catalogue" not in catalogue.names()
    assert catalogue.default() == "micro"


def test_every_function_of_a_recipe_that_a_command_may_ask_for_is_known():
    """A part that is misspelt would say nothing to anyone."""
    own = {"verifier", "teacher", "distillation", "served", "reflector_vlm", "corrector"}  # what a recipe's parts share
    for name in catalogue.names():
        module = catalogue._module(name)
        said = {n for n, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
        functions = {n for n in said if callable(getattr(module, n)) and not n.startswith("_")}
        assert functions - own <= set(PARTS), name


@pytest.mark.parametrize(("name", "part"), SAID, ids=" ".join)
def test_every_part_of_every_preset_loads(name, part):
    assert catalogue.load(name, part) is not None
    assert catalogue.load(name, part) == catalogue.load(name, part)


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every plain value in a configuration and where it stands, whatever it is nested in."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from leaves(getattr(value, field.name), f"{path}.{field.name}")
    elif isinstance(value, dict):
        yield from leaves([*value.keys(), *value.values()], path)
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from leaves(one, path)
    else:
        yield path, value


MICRO_KINDS = ("segmentation", "pixels")  # of a judge of drawings, and of a palette
OWN_SIZES = ("min_core_px", "strip_px", "patch_px", "swin_pretrain_px")  # no image's
MIN_PX = 256
MICRO_ALONE = ("micro", "micro-gpu", "micro-paper")
ELSEWHERE = [(name, part) for name, part in SAID if name not in MICRO_ALONE]


def of_the_micro_world(value: Any) -> list[str]:
    """What in a configuration is a micro model, template, world, kind of model, or size of image, and where."""
    found = []
    for path, leaf in leaves(value):
        name = path.rpartition(".")[2]
        is_named = isinstance(leaf, str) and (leaf == "micro" or leaf.startswith(("micro/", "micro-")))
        is_kind = name in ("kind", "kinds") and leaf in MICRO_KINDS
        is_small = isinstance(leaf, int) and 0 < leaf < MIN_PX and name.endswith("_px") and name not in OWN_SIZES
        if is_named or is_kind or is_small:
            found.append(f"{path} = {leaf}")
    return found


@pytest.mark.parametrize(("name", "part"), ELSEWHERE, ids=" ".join)
def test_no_other_preset_has_anything_of_the_micro_world(name, part):
    assert of_the_micro_world(catalogue.load(name, part)) == []


@pytest.mark.parametrize(("name", "part"), ELSEWHERE, ids=" ".join)
def test_every_model_of_a_production_preset_computes_on_a_gpu(name, part):
    devices = [(path, leaf) for path, leaf in leaves(catalogue.load(name, part)) if path.endswith(".device")]
    beside = ".tools.corrector.editor.device"  # empty: where the generator computes
    assert [one for one in devices if one[1] != "cuda" and one != (beside, "")] == []


def default_configurations() -> dict[str, Any]:
    """One of every dataclass of the four packages that can be made without arguments."""
    made = {}
    for package in (schemas, inference, trainers, pipelines):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if found.name.endswith("__main__"):
                continue
            members: dict[str, Any] = vars(importlib.import_module(found.name))
            for name, value in list(members.items()):
                if not isinstance(value, type) or value.__module__ != found.name or not dataclasses.is_dataclass(value):
                    continue
                missing = dataclasses.MISSING
                fields = [f for f in dataclasses.fields(value) if f.init]
                if all(f.default is not missing or f.default_factory is not missing for f in fields):
                    made[f"{found.name}.{name}"] = value()
    return made


def test_what_a_class_is_by_default_has_nothing_of_the_micro_world():
    made = default_configurations()
    assert {"pipelines.search_job.SearchJobConfig", "inference.judges.judge.JudgeConfig"} <= set(made)
    assert "trainers.corrector.CorrectorTrainingConfig" in made
    assert {name: found for name, config in made.items() if (found := of_the_micro_world(config))} == {}


def test_the_walk_finds_what_it_looks_for():
    found = set(of_the_micro_world(catalogue.load("micro", "search")))
    assert {
        ".prompts = micro-dev",
        ".vocabulary = micro",
        ".tools.generator.flux.model = micro/flux",
        ".tools.generator.flux.size_px = 32",
        ".tools.verifier.vlm.prompt = micro/verify",
        ".tools.verifier.rewards.clip.model = micro/rewards/hps",
        ".tools.verifier.trained.model = micro/verifier",
        ".tools.verifier.rules.color.kind = pixels",
        ".judge.judge.kind = segmentation",
        ".judge.judge.segmentation.model = micro/judge",
    } <= found


def models_of_a_search(capsys, folder, *arguments: str) -> str:
    """What a search under flux says before it starts, where no model is on the machine."""
    command = ["search", "--preset", "flux", "--run", str(folder / "run"), "--search.strategy", "noise", *arguments]
    assert main(command) == 2
    assert not (folder / "run").exists()
    return capsys.readouterr().err


@pytest.fixture
def no_models(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.chdir(tmp_path)
    dog = {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a photo of a dog"}
    (tmp_path / "evaluation_metadata.jsonl").write_text(json.dumps(dog) + "\n")  # looked at before models are
    return tmp_path


CHOOSES = {
    "vlm": "Qwen/Qwen2.5-VL-7B-Instruct",
    "prompted": "Qwen/Qwen2.5-VL-7B-Instruct",
    "trained": "diffusion-cot/Image-Verifier",
    "rules": "sam_vit_h_4b8939.pth",
    "rewards": "yuvalkirstain/PickScore_v1",
    "judge": "facebook/mask2former-swin-small-coco-instance",
}


@pytest.mark.parametrize("kind", [kind for kind in get_args(VerifierKind) if kind in CHOOSES])
@pytest.mark.parametrize("flag", ["--tools.verifier.kinds", "--also-score"])
def test_a_kind_that_is_named_under_flux_has_a_production_model(kind, flag, no_models, capsys):
    said = models_of_a_search(capsys, no_models, flag, kind)
    assert CHOOSES[kind] in said
    assert "micro/" not in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["--tools.verifier.kinds", "trained", "--tools.verifier.trained.model", ""],
            "verifier 'trained' has no configuration here: no model is named for it",
        ),
        (["--also-score", "trained", "--tools.verifier.trained.model", ""], "or vlm or prompted or"),
        (["--tools.verifier.kinds", "nvila"], "it would run in this process, with all your rights"),
        (["--judge.judge.kind", "segmentation"], "the judge 'segmentation' names no model"),
        (["--tools.verifier.kinds", "judge", "--tools.verifier.rules.color.kind", "pixels"], "mask2former-swin-small"),
    ],
)
def test_a_kind_that_flux_has_no_model_of_is_refused_by_name(arguments, says, no_models, capsys):
    said = models_of_a_search(capsys, no_models, *arguments)
    assert says in said
    assert "micro/" not in said


def test_looking_at_a_preset_imports_no_torch():
    code = "import sys, commands.plan, recipes.catalogue as c; c.load('flux', 'dataset')"
    assert subprocess.run([sys.executable, "-c", f"{code}; sys.exit('torch' in sys.modules)"]).returncode == 0
