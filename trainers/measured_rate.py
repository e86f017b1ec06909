"""How fast a training was, kept in its folder with whose rate that is: a plan takes it for the same training on the
same kind of device, and for no other."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from schemas.atomic_file import write_whole
from trainers.same_training import settings_of

FILE = "rate.json"
_NOT_IN_TIME = ("data", "out", "loop.seed")
_TIMED = ("micro_batch", "recompute", "compile", "bf16")
"""Fields that a training may change as it goes on, and that change its time."""


@dataclass(frozen=True)
class Rate:
    """samples_per_s: of all workers together. device: cpu, or the GPU's name."""

    samples_per_s: float
    workers: int
    device: str
    settings: dict[str, Any]


def device_name(device: str) -> str:
    """cpu, or what the GPU calls itself."""
    if device.startswith("cpu"):
        return "cpu"
    import torch

    return torch.cuda.get_device_name(device)


def keep_rate(out: Path, config: Any, device: str, workers: int, samples_per_s: float) -> None:
    """Write `out/rate.json`."""
    rate = Rate(samples_per_s, workers, device_name(device), _timed_settings(config))
    write_whole(out / FILE, json.dumps(asdict(rate), indent=1, sort_keys=True))


def rate_of(out: Path, config: Any, device: str) -> tuple[Rate | None, str]:
    """The rate that an earlier training in `out` had, where it was the same training on the same kind of device, and
    whose it is, or why it is not taken; device: cpu, or what the plan calls a GPU ("a100-80gb"). Nothing to say where
    there was none."""
    try:
        rate = Rate(**json.loads((out / FILE).read_text()))
    except FileNotFoundError:
        return None, ""
    except (OSError, ValueError, TypeError):
        return None, f"{out / FILE} does not read, and is not taken"
    now = _timed_settings(config)
    differing = [name for name in sorted({*now, *rate.settings}) if now.get(name) != rate.settings.get(name)]
    whose = f"{out} on {rate.device}"
    if not _is_same_device(rate.device, device):
        return None, f"the rate of {whose} is of another device, and is not taken"
    if differing:
        name = differing[0]
        told = f"{name} {rate.settings.get(name)!r} there, {now.get(name)!r} here"
        return None, f"the rate of {whose} is of another training ({told}), and is not taken"
    return rate, f"measured in {whose}, {rate.workers} worker(s)"


def _is_same_device(measured: str, planned: str) -> bool:
    name = measured.lower().replace(" ", "")
    return all(part in name for part in planned.lower().split("-"))


def _timed_settings(config: Any) -> dict[str, Any]:
    """As JSON has them."""
    settings = {name: value for name, value in settings_of(config).items() if name not in _NOT_IN_TIME}
    for name in _TIMED:
        for place in (config, config.loop):
            if hasattr(place, name):
                settings[name] = getattr(place, name)
    return json.loads(json.dumps(settings, default=str))
