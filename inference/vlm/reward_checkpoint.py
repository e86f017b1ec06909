"""The layout in which ReflectionFlow's Image-Verifier is published: which files there are, and what they say.

    DIR/model_config.json                               here, where the published code reads it,
    DIR/checkpoint-10080/model_config.json              or here, where it was put
    DIR/checkpoint-10080/adapter_model.safetensors
    DIR/checkpoint-10080/non_lora_state_dict.pth        or, in place of both, model.pth, the whole state

`DIR` or a checkpoint's folder itself may be named. `training_args.bin`, a pickle of a class that is not ours, is never
read, nor is `adapter_config.json`, whose base model is a path of somebody else's machine.
"""

from __future__ import annotations

import functools
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from schemas.errors import InputError

SETTINGS, WHOLE, ADAPTER_WEIGHTS, OTHER_WEIGHTS = (
    "model_config.json",
    "model.pth",
    "adapter_model.safetensors",
    "non_lora_state_dict.pth",
)
NEWEST = -1
_STEP = re.compile(r"checkpoint-(\d+)")
_WITHOUT_EFFECT = {
    "data_config": "meta_data data_dir meta_data_test eval_dim num_frames fps p_shuffle_frames p_color_jitter "
    "add_noise sample_type use_tied_data",
    "model_config": "model_revision freeze_vision_tower freeze_llm tune_merger torch_dtype load_in_8bit load_in_4bit "
    "loss_type",
    "peft_lora_config": "vision_lora lora_dropout num_lora_modules lora_modules_to_save",
    "inference_config": "",
    "training_args": "",
}
"""By section, keys that a score does not depend on."""

log = logging.getLogger(__name__)
T = TypeVar("T")


@functools.cache
def say_once(text: str) -> None:
    """To the log: on stderr, unless somebody collects it."""
    log.warning(text)


@dataclass(frozen=True)
class DataSettings:
    """`data_config`: what the model saw."""

    max_frame_pixels: int = 76800
    prompt_template_type: str = "none"


@dataclass(frozen=True)
class ModelSettings:
    """`model_config`: the base model, and how its states become a score."""

    model_name_or_path: str = ""
    output_dim: int = 1
    use_special_tokens: bool = False
    reward_token: str = "last"


@dataclass(frozen=True)
class LoraSettings:
    """`peft_lora_config`: what peft was asked for."""

    lora_enable: bool = False
    lora_r: int = 16
    lora_alpha: float = 32
    use_rslora: bool = False
    lora_namespan_exclude: tuple[str, ...] = ()

    @property
    def scale(self) -> float:
        """Of B @ A."""
        return self.lora_alpha / (self.lora_r**0.5 if self.use_rslora else self.lora_r)


@dataclass(frozen=True)
class ScoreSettings:
    """`inference_config`: a score is (raw - VQ_mean) / VQ_std."""

    VQ_mean: float = 0.0
    VQ_std: float = 1.0


@dataclass(frozen=True)
class CheckpointSettings:
    """What `model_config.json` says of a score."""

    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    lora: LoraSettings = field(default_factory=LoraSettings)
    score: ScoreSettings = field(default_factory=ScoreSettings)

    @property
    def pooling(self) -> str:
        """special, last, mean: which tokens' states count."""
        return "special" if self.model.use_special_tokens else self.model.reward_token


def is_reward_checkpoint(folder: Path) -> bool:
    """Whether a folder has this layout, complete or not: by its files, none of which is read."""
    if not folder.is_dir() or (folder / "verifier.json").exists():
        return False
    own = (SETTINGS, WHOLE, OTHER_WEIGHTS)
    return any((folder / name).exists() for name in own) or bool(_checkpoints(folder))


def _checkpoints(folder: Path) -> dict[int, Path]:
    """By step."""
    found = {int(match[1]): path for path in folder.iterdir() if (match := _STEP.fullmatch(path.name))}
    return {step: path for step, path in sorted(found.items()) if path.is_dir()}


def checkpoint_of(folder: Path, step: int = NEWEST) -> Path:
    """The folder with the weights of `step`: of the newest, or where that step is missing, which is said. InputError
    where there is none."""
    checkpoints = _checkpoints(folder)
    if checkpoints:
        newest = max(checkpoints)
        if step not in (NEWEST, *checkpoints):
            say_once(f"{folder}: no checkpoint of step {step}; the newest, {newest}, is taken")
        return checkpoints.get(step, checkpoints[newest])
    if not any((folder / name).exists() for name in (WHOLE, ADAPTER_WEIGHTS, OTHER_WEIGHTS)):
        raise InputError("no checkpoint", file=str(folder), expected="a folder checkpoint-STEP with the weights")
    own = _STEP.fullmatch(folder.name)
    if step != NEWEST and not (own and int(own[1]) == step):
        say_once(f"{folder}: this is the one checkpoint there is; step {step} is not")
    return folder


def settings_file(checkpoint: Path) -> Path:
    """`model_config.json`: beside the checkpoint, where the published code looks, else inside it. InputError."""
    beside, inside = checkpoint.parent / SETTINGS, checkpoint / SETTINGS
    if beside.is_file():
        if inside.is_file() and inside.read_bytes() != beside.read_bytes():
            say_once(f"{beside} counts, as in the published code; {inside} says something else")
        return beside
    if inside.is_file():
        return inside
    raise InputError(
        f"no {SETTINGS}", file=str(checkpoint), expected=f"the file inside the checkpoint, or beside it: {beside}"
    )


def read_settings(path: Path) -> CheckpointSettings:
    """What a `model_config.json` says. InputError (file, field) for what it cannot mean; a key that the published code
    does not know is named and left out."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"does not read: {error}", file=str(path), expected="a JSON object of sections") from error
    if not isinstance(said, dict):
        raise InputError("is no JSON object", file=str(path), expected="sections such as model_config")
    strangers = [name for name in said if name not in _WITHOUT_EFFECT]
    parts = {
        "data_config": DataSettings,
        "model_config": ModelSettings,
        "peft_lora_config": LoraSettings,
        "inference_config": ScoreSettings,
    }
    read = {name: _section(path, name, said.get(name), kind, strangers) for name, kind in parts.items()}
    if strangers:
        say_once(f"{path}: {', '.join(strangers)}: not known to the published code either, and left out")
    settings = CheckpointSettings(*read.values())
    _check(path, settings)
    return settings


def _section(path: Path, name: str, said: Any, kind: type[T], strangers: list[str]) -> T:
    if said is None:
        return kind()
    if not isinstance(said, Mapping):
        raise InputError("is no JSON object", file=str(path), field=name)
    hints, known = get_type_hints(kind), {one.name for one in fields(kind)}  # pyright: ignore[reportArgumentType]
    strangers += [f"{name}.{key}" for key in said if key not in known and key not in _WITHOUT_EFFECT[name].split()]
    values = {}
    for key in known & said.keys():
        if said[key] is None and _default(kind, key) is not MISSING:
            continue
        values[key] = _value(path, f"{name}.{key}", said[key], hints[key])
    return kind(**values)


def _default(kind: type, key: str) -> Any:
    return next(one.default for one in fields(kind) if one.name == key)


def _value(path: Path, where: str, value: Any, hint: Any) -> Any:
    if get_args(hint):
        listed = value
        if isinstance(value, str):  # "['lm_head', 'visual']", as it stood on a command line, or one name
            listed = re.findall(r"[\w.]+", value)
        if isinstance(listed, list) and all(isinstance(one, str) for one in listed):
            return tuple(listed)
    elif isinstance(value, bool) == (hint is bool) and isinstance(value, (int, float) if hint is float else hint):
        return value
    raise InputError(f"{value!r}", file=str(path), field=where, expected=getattr(hint, "__name__", "a list of names"))


def _check(path: Path, settings: CheckpointSettings) -> None:
    model = settings.model
    wrong = {
        "model_config.output_dim": (model.output_dim, model.output_dim in (1, 3), "1 or 3"),
        "model_config.reward_token": (
            model.reward_token,
            settings.pooling in ("special", "last", "mean")
            and (model.use_special_tokens or model.reward_token != "special"),
            "last or mean, or special with use_special_tokens",
        ),
        "peft_lora_config.lora_r": (settings.lora.lora_r, settings.lora.lora_r > 0, "more than 0"),
        "inference_config.VQ_std": (settings.score.VQ_std, settings.score.VQ_std > 0, "more than 0"),
        "data_config.max_frame_pixels": (
            settings.data.max_frame_pixels,
            settings.data.max_frame_pixels > 0,
            "more than 0",
        ),
    }
    for where, (value, right, expected) in wrong.items():
        if not right:
            raise InputError(f"{value!r}", file=str(path), field=where, expected=expected)


def files_read(folder: Path) -> list[Path]:
    """What lies outside of a folder of this layout and is read with it: the settings beside a checkpoint."""
    beside = folder.parent / SETTINGS
    return [beside] if not _checkpoints(folder) and beside.is_file() else []


def base_named(folder: Path, step: int = NEWEST) -> str | None:
    """The base model that a folder of this layout names; None where it names none, or does not read."""
    try:
        return read_settings(settings_file(checkpoint_of(folder, step))).model.model_name_or_path or None
    except InputError:
        return None
