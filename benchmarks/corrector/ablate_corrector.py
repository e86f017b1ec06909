"""What does each choice in the corrector's training buy? One training a choice and seed, all from the same start.

`python -m benchmarks.corrector.ablate_corrector --data runs/genref --minutes 10` changes one thing at a time against
the base: task warm-up, drops, rank, where the LoRA acts, how the condition attends, each subset left out. Each
corrector is measured by its loss on the same held-out samples and by `corrector_gain`'s ways on the same wrong images.
What is done is kept in `--out`: the same command goes on, and prints the table of what there is. Intervals are 95 %
bootstraps of paired differences, over held-out samples or over texts, seeds averaged.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file

from benchmarks.corrector.ablation_table import ARMS, START, Measured, show, tabulate
from benchmarks.corrector.corrector_gain import Arguments as GainArguments
from benchmarks.corrector.corrector_gain import Gain
from benchmarks.results_file import Circumstances, run_command, save
from inference.flux.condition_config import ConditionConfig
from inference.flux.conditioning import ConditionedFlux
from inference.flux.corrector import WEIGHTS, FluxCorrector, FluxCorrectorConfig, read_description, save_corrector
from inference.model_store import resolve_model
from microworld.family import micro_flux
from recipes import micro, micro_gpu
from schemas.atomic_file import write_whole
from schemas.errors import InputError
from trainers.corrector import (
    CorrectorTrainable,
    CorrectorTrainingConfig,
    open_training,
)
from trainers.shard_dataset import MixSchedule
from trainers.shard_index import SUBSETS, open_index, subset_counts

Config = CorrectorTrainingConfig
TRIAL_STEPS = 6


@dataclass(frozen=True)
class Arguments:
    """Which choices, how long."""

    data: str
    """Run folder or folder of shards."""
    minutes: float = 10.0
    """Training time of each run; the steps that fit into it are measured first."""
    steps: int = 0
    """Steps of each run, in place of minutes."""
    seeds: tuple[int, ...] = (0, 1)
    start_from: str = ""
    """A trained corrector's folder or name that every run goes on from (at half the learning rate): what ten minutes of
    two cores teach a new one is too little to tell choices apart. Where a choice is one of form, `in_form` brings the
    corrector into it first."""
    only: tuple[str, ...] = ()
    """Choices to try (names as in the table); default: all. The base always is."""
    datasets: tuple[str, ...] = ()
    """More choices, NAME=PLACE: the base on another run folder or folder of shards."""
    against: str = "base"
    """The choice that all are compared with."""
    name: str = "ablate_corrector"
    """Of the results file."""
    train: bool = True
    """Whether runs that are missing are made; without, the table is of those that there are."""
    device: Literal["cpu", "cuda"] = "cpu"
    bf16: bool | None = None
    """As the trainer's flag of this name."""
    out: Path = Path("runs/ablate_corrector")
    num_held_out: int = 256
    gain: GainArguments = field(
        default_factory=lambda: GainArguments((), reflector="", generator=micro_flux(batch_size=64))
    )
    """What is measured after each training."""


def reweighted(change: Callable[[dict[str, float]], dict[str, float]]) -> Callable[[Config], Config]:
    """Subsets with other weights, at the schedule's start and at its end."""
    return lambda c: replace(c, mix=replace(c.mix, start=change(c.mix.start), end=change(c.mix.end)))


def without(*subsets: str) -> Callable[[Config], Config]:
    """These are never sampled."""
    return reweighted(lambda weights: {name: 0.0 if name in subsets else w for name, w in weights.items()})


def dropping(**shares: float) -> Callable[[Config], Config]:
    return lambda c: replace(c, batch=replace(c.batch, drop=replace(c.batch.drop, **shares)))


def conditioned(**fields: Any) -> Callable[[Config], Config]:
    """With rank, alpha stays equal to it."""
    more = {"alpha": float(fields["rank"])} if "rank" in fields else {}
    return lambda c: replace(c, condition=replace(c.condition, **fields, **more))


CHOICES: dict[str, Callable[[Config], Config]] = {
    "no task warm-up": lambda c: replace(c, mix=MixSchedule(c.mix.end, c.mix.end, c.mix.steps)),
    "reflection always there": dropping(reflection=0.0),
    "reflection dropped half the time": dropping(reflection=0.5),
    "no drop at all": dropping(text=0.0, image=0.0, reflection=0.0),
    "rank 8": conditioned(rank=8),
    "rank 128": conditioned(rank=128),
    "LoRA on the condition alone": conditioned(lora_on="condition", adapt_text=False),
    "LoRA on image tokens alone": conditioned(adapt_text=False),
    "condition beside the image": conditioned(position="left"),
    "cached": conditioned(attention="cached"),
    "cached, text copy as it is": conditioned(attention="cached", adapt_text=False),
    "cached, no text copy": conditioned(attention="cached", text_copy=False),
    "loss the same everywhere": lambda c: replace(c, batch=replace(c.batch, difference_weight=0.0)),
    "times as published": lambda c: replace(c, batch=replace(c.batch, time_shift=0.0, start_share=0.0)),
    "none at t = 1": lambda c: replace(c, batch=replace(c.batch, start_share=0.0)),
    **{f"without {subset}": without(subset) for subset in SUBSETS},
    "a tenth of rule": reweighted(lambda weights: weights | {"rule": weights["rule"] / 10}),
    "general as often as rule, rule as general": reweighted(
        lambda weights: weights | {"rule": weights["general"], "general": weights["rule"]}
    ),
    "editing alone": without("rule", "general", "length"),
}


def base_config(arguments: Arguments, seed: int) -> Config:
    """The base of all choices."""
    recipe = micro_gpu if arguments.device == "cuda" else micro
    config = replace(recipe.corrector_training(), data=arguments.data, out=arguments.out)
    loop = replace(config.loop, seed=seed, checkpoint_every=200, evaluate_every=10**9)
    optimizer = config.optimizer
    if arguments.start_from:
        optimizer = replace(optimizer, learning_rate=optimizer.learning_rate / 2)
    return replace(
        config,
        start_from=arguments.start_from,
        optimizer=optimizer,
        loop=loop,
        bf16=arguments.bf16,
        num_evaluated=arguments.num_held_out,
        held_out_batch=config.batch,
        encode=replace(config.encode, ahead=True, fast_noise=True, cache=arguments.out / "cache"),
    )


def datasets_of(arguments: Arguments) -> dict[str, str]:
    """Name -> place. InputError."""
    found = {}
    for said in arguments.datasets:
        name, equals, place = said.partition("=")
        if not (name and equals and place) or name in {*CHOICES, *found, "base"}:
            raise InputError(f"{said!r}", field="--datasets", expected="NAME=PLACE, each name once, and no choice's")
        found[name] = place
    return found


def config_of(arguments: Arguments, choice: str, seed: int, steps: int) -> Config:
    """One run. Warm-up, decay and task warm-up take the same shares of it, however long it is."""
    config = base_config(arguments, seed)
    config = replace(
        config,
        out=arguments.out / choice.replace(" ", "_").replace(",", "") / f"seed_{seed}",
        loop=replace(config.loop, steps=steps),
        optimizer=replace(config.optimizer, warmup_steps=max(1, steps // 40), decay_steps=max(1, steps // 4)),
        mix=replace(config.mix, steps=max(1, steps // 8)),
    )
    config = replace(config, data=datasets_of(arguments).get(choice, config.data))
    changed = CHOICES[choice](config) if choice in CHOICES else config
    if arguments.start_from and changed.condition != config.condition:
        changed = replace(changed, start_from=str(config.out.parent / "start"))
    return changed


def in_form(source: Path, condition: ConditionConfig, transformer: FluxTransformer2DModel, folder: Path) -> None:
    """Write `source`'s corrector to `folder` with another condition. Layers that have no LoRA there lose it; a lower
    rank keeps the largest singular values of each product BA (the nearest matrix there is: Eckart and Young, 1936), a
    higher one gets new rows of A whose columns of B are zero."""
    old = read_description(source)
    weights = load_file(source / WEIGHTS)
    torch.manual_seed(0)
    model = ConditionedFlux(transformer, condition)
    tensors = {name: value.clone() for name, value in model.lora.to_file_tensors().items()}
    kept = min(condition.rank, old.condition.rank)
    scale = old.condition.alpha / old.condition.rank / model.lora.scale
    for name in model.lora.names:
        down, up = (weights[f"transformer.{name}.lora_{part}.weight"].float() for part in "AB")
        if kept < old.condition.rank:
            left, values, right = torch.linalg.svd(up @ down, full_matrices=False)
            root = values[:kept].sqrt()
            down, up = root[:, None] * right[:kept], left[:, :kept] * root
        tensors[f"{name}.lora_A.weight"][:kept] = down
        tensors[f"{name}.lora_B.weight"][:, :kept] = up * scale
    model.lora.load_file_tensors(tensors)
    save_corrector(folder, model, replace(old, condition=condition))


def has_meaning(mix: MixSchedule, base: MixSchedule, present: Collection[str]) -> bool:
    """Whether a choice can be tried on these subsets: if it is one of the mix, it must leave something and differ."""
    if mix == base:
        return True
    names = [name for name in SUBSETS if name in present]
    if not all(sum(weights.get(name, 0.0) for name in names) for weights in (mix.start, mix.end)):
        return False
    ends = np.array([0, mix.steps])
    return not np.allclose(mix.weights(ends, names), base.weights(ends, names))


def steps_in(arguments: Arguments, choice: str, seed: int) -> int:
    """Steps of a run: as asked for, or as many as its minutes hold, measured once and written down."""
    if arguments.steps:
        return arguments.steps
    path = config_of(arguments, choice, seed, 1).out / "steps.json"
    if path.exists():
        return int(json.loads(path.read_text()))
    trial = config_of(arguments, choice, seed, TRIAL_STEPS)
    times: list[float] = []
    read = replace(trial.loop, read_every=1, checkpoint_every=TRIAL_STEPS + 1)
    trial = replace(trial, out=trial.out / "trial", loop=read, num_evaluated=0)
    open_training(trial).run(lambda step, row: times.append(time.monotonic()))
    steps = max(TRIAL_STEPS, int(60 * arguments.minutes * (TRIAL_STEPS - 2) / (times[-1] - times[1])))
    write_whole(path, json.dumps(steps))
    return steps


def measured_at(arguments: Arguments, choice: str, seed: int) -> Path:
    """Where a run's figures are kept."""
    return config_of(arguments, choice, seed, 1).out / "measured.json"


def read_measured(path: Path) -> Measured:
    """A run's figures as they were kept."""
    return Measured(**json.loads(path.read_text()))


def train_and_measure(arguments: Arguments, choice: str, seed: int, gain: Gain) -> Measured:
    """One run, from wherever it was left."""
    path = measured_at(arguments, choice, seed)
    if path.exists():
        return read_measured(path)
    first = config_of(arguments, choice, seed, 1)
    if first.start_from != arguments.start_from and not (Path(first.start_from) / WEIGHTS).exists():
        transformer = gain.generator.pipeline.transformer
        in_form(resolve_model(arguments.start_from), first.condition, transformer, Path(first.start_from))
    steps = steps_in(arguments, choice, seed)
    config = config_of(arguments, choice, seed, steps)
    print(f"--- {choice}, seed {seed}: {steps} steps", flush=True)
    started = time.monotonic()
    training = open_training(config)
    training.run()
    minutes = (time.monotonic() - started) / 60
    assert isinstance(training.trainable, CorrectorTrainable)
    with training.averaged():
        held_out = [loss for _, loss in training.trainable.held_out_losses()]
    found = replace(
        measure(choice, seed, str(config.out / "corrector"), gain),
        steps=steps,
        minutes=round(minutes, 2),
        held_out=held_out,
    )
    write_whole(path, json.dumps(asdict(found)))
    return found


def measure(choice: str, seed: int, model: str, gain: Gain) -> Measured:
    """What a corrector makes of the wrong images and the open prompts."""
    corrector = FluxCorrector(FluxCorrectorConfig(model), gain.generator)
    if not gain.turned:
        gain.without_corrector()
    gain.with_corrector(choice, corrector)
    met = gain.followed.get((choice, "told"))
    return Measured(
        choice,
        seed,
        0,
        0.0,
        [],
        {way: gain.turned[key].mean(1).tolist() for way, key in _ways(choice)},
        [] if met is None else np.stack([met[:, 0, 0], met[:, 1, 1]], 1).mean(1).tolist(),
        " ".join(f"{w.prompt.prompt_id}/{w.number}" for w in gain.wrong),
    )


def measure_start(arguments: Arguments, gain: Gain) -> Measured:
    """The corrector that all runs go on from, before any of them."""
    path = arguments.out / "start" / "measured.json"
    if path.exists():
        return read_measured(path)
    found = measure(START, arguments.seeds[0], arguments.start_from, gain)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(asdict(found)))
    return found


def _ways(choice: str) -> list[tuple[str, tuple[str, str]]]:
    return [("again", ("", "again")), *((arm, (choice, arm)) for arm in ARMS)]


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    circumstances = Circumstances.now(f"python -m benchmarks.corrector.ablate_corrector {' '.join(sys.argv[1:])}")
    datasets = datasets_of(arguments)
    if arguments.against not in {"base", *CHOICES, *datasets}:
        raise InputError(f"no choice {arguments.against}", field="--against", expected="base, or a choice")
    unknown = set(arguments.only) - set(CHOICES)
    if unknown:
        raise InputError(f"no choice {', '.join(sorted(unknown))}", field="--only", expected=", ".join(CHOICES))
    index = open_index(arguments.data, arguments.out / "cache")
    present = {subset for subset, count in subset_counts(index).items() if count}
    base = config_of(arguments, "base", 0, 1).mix
    meant = [c for c in CHOICES if has_meaning(config_of(arguments, c, 0, 1).mix, base, present)]
    chosen = [name for name in meant if not arguments.only or name in arguments.only] + list(datasets)
    device = replace(arguments.gain.generator, device=arguments.device)
    gain = Gain(replace(arguments.gain, generator=device))
    texts = [w.prompt.text for w in gain.wrong]
    measured: list[Measured] = []
    figures: dict[str, dict[str, Any]] = {}
    if arguments.start_from:
        measured.append(measure_start(arguments, gain))
    for seed in arguments.seeds:
        for choice in ("base", *chosen):
            if not arguments.train and not measured_at(arguments, choice, seed).exists():
                continue
            measured.append(train_and_measure(arguments, choice, seed, gain))
            figures = tabulate(measured, texts, arguments.against, datasets)
            compared_with = f"{arguments.against}, same start, same seeds"
            save(arguments.name, circumstances, figures, compared_with=compared_with)
    show(figures)


if __name__ == "__main__":
    run_command(main)
