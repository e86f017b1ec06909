"""Which presets there are: every file of this folder that has parts is one. A preset is a module; each of its functions
is what it says for one thing, and one that it has not is refused by name."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any, Literal

import recipes
from schemas.errors import InputError
from schemas.own_modules import full_name

Part = Literal[
    "dataset",
    "search",
    "run_options",
    "cluster",
    "corrector_training",
    "verifier_training",
    "reflector_training",
    "condenser_training",
    "dual_process",
    "distill_workers",
    "generator",
    "grounding",
    "rewards",
    "vlm",
    "question_words",
    "judge",
    "description_judge",
    "expander",
    "drift_clip",
]
"""dataset: `DatasetConfig` of run, plan. search: `SearchJobConfig` of search, reflect. run_options: `RunOptions`, how
both are computed. cluster: `Cluster` that plan is for. *_training, dual_process: of the trainers and of distill.
distill_workers: `Workers` of distill on Ray. generator: `GeneratorConfig` of generate. grounding: `GroundedSamConfig`
of check. rewards: `RewardConfig`s of score. vlm, question_words: `VlmConfig` and `QuestionWords` of questions. judge:
`JudgeConfig` of judge, evaluate. description_judge, expander: `DescriptionJudgeConfig` and `ExpanderConfig` of evaluate
commonsense-t2i. drift_clip: `ClipRewardConfig` of drift."""
FIRST = "micro"  # what commands take without --preset, where it is installed


def names(part: Part | None = None) -> list[str]:
    """Presets, by their flags' names ("flux-24gb"); those that have a part."""
    found = [module.name.replace("_", "-") for module in pkgutil.iter_modules(recipes.__path__)]
    found = sorted(name for name in found if name != "catalogue")
    return [name for name in found if part is None or hasattr(_module(name), part)]


def default() -> str:
    """The preset of a command line that names none."""
    known = names()
    return FIRST if FIRST in known else known[0]


def load(preset: str, part: Part) -> Any:
    """What a preset says for one thing. InputError for an unknown preset, or one that says nothing for it."""
    if preset not in names():
        raise InputError(f"unknown preset {preset!r}", field="--preset", expected=" or ".join(names(part)))
    found = getattr(_module(preset), part, None)
    if found is None:
        raise InputError(
            f"preset {preset!r} says nothing for {part.replace('_', ' ')}",
            field="--preset",
            expected=" or ".join(names(part)),
        )
    return found()


def load_or(preset: str, part: Part, otherwise: Any) -> Any:
    """The same; `otherwise` where the preset says nothing for it, or is not known (any more)."""
    if preset not in names() or not hasattr(_module(preset), part):
        return otherwise
    return load(preset, part)


def in_words() -> str:
    """For help texts."""
    return ", ".join(names())


def _module(name: str) -> Any:
    return importlib.import_module(full_name(f"recipes.{name.replace('-', '_')}"))
