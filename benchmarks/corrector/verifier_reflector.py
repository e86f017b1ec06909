"""Is a trained verifier better than asking the VLM and than each reward, and does a trained reflector say more truths?

`python -m benchmarks.corrector.verifier_reflector --data runs/genref --verifier runs/verifier/verifier --reflector
runs/reflector/reflector` has three parts, each of which needs only what it names:

- pairs: on the pairs that the trainers held out (same share, same seed), how often the good image scores higher;
- ranking: of N images of each dev prompt, how often the one that scores highest is right (by the judge);
- reflections: on the generator's wrong images, how often the VLM and the reflector name a real flaw (the judge's).

Intervals are 95 % bootstraps over texts; differences are paired.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from benchmarks.corrector.corrector_gain import as_data, cell_of
from benchmarks.corrector.wrong_images import WrongImage, find_wrong_images, reflections_by
from benchmarks.dataset.referee import names_one_of
from benchmarks.results_file import Circumstances, name_on_split, print_table, run_command, save
from inference.flux.generator import FluxGenerator
from inference.interfaces import Reward
from inference.judges.intervals import Interval, mean_over_tags
from inference.judges.segmentation_judge import SegmentationJudge
from inference.rewards.clip_reward import ClipReward
from inference.rewards.ensemble import combine_rewards
from inference.vlm.prompted_verifier import PromptedVerifier
from inference.vlm.prompts import load_prompt
from inference.vlm.trained_verifier import TrainedVerifier
from inference.vlm.vlm import VlmConfig
from inference.vlm.yes_no_verifier import YesNoVerifier
from microworld.family import micro_clip, micro_flux, micro_rewards, micro_segmentation_judge, micro_vlm
from microworld.scenes import evaluation_split
from microworld.scenes.evaluation_split import evaluation_seed
from microworld.scenes.instructions import parse_instruction, split_sentences
from schemas.errors import CorruptDataError, InputError
from schemas.images import decode_image
from schemas.records import PromptRecord
from trainers.shard_dataset import hold_out
from trainers.shard_index import SampleReader, open_index

TRAINED, ASKED = "trained", "VLM, yes or no"
REWARDS = tuple(reward.name for reward in micro_rewards())
TARGET = "trained above the asked VLM and every reward; more reflections true after training than before"


@dataclass(frozen=True)
class Arguments:
    """Which models, on what."""

    data: str = ""
    """Run folder or folder of shards that the trainers read; empty: no pairs."""
    verifier: str = ""
    """Folder of a trained verifier; empty: the others alone."""
    reflector: str = ""
    """Folder of a trained reflector; empty: no reflections."""
    vlm: VlmConfig = field(default_factory=micro_vlm)
    """Who is asked."""
    criteria: bool = False
    """Ask the VLM for scores by the papers' criteria too, which takes some minutes."""
    held_out_share: float = 0.05
    seed: int = 0
    """Both as the trainers had them: what they held out depends on them."""
    max_pairs: int = 1000
    split: Literal["dev", "test", "hard-dev", "hard-test"] = "dev"
    """test, hard-test: the sealed prompts, for final figures alone."""
    candidates: int = 8
    """Images of each prompt to choose from; 0: no ranking."""
    per_prompt: int = 2
    """Images of each prompt, of which reflections are written for the wrong ones."""
    device: Literal["cpu", "cuda"] = "cpu"
    name: str = ""
    """Of the results file; default: verifier_reflector, and the split where it is not dev."""


@dataclass(frozen=True)
class HeldOutPair:
    """Images uint8 (H, W, 3)."""

    good: np.ndarray
    bad: np.ndarray
    prompt: str
    subset: str


def held_out_pairs(arguments: Arguments) -> list[HeldOutPair]:
    """Every pair that the trainers held out, once; broken ones are left out."""
    _, held_out = hold_out(open_index(arguments.data), arguments.held_out_share, arguments.seed)
    reader, pairs = SampleReader(), []
    chosen = np.random.default_rng(arguments.seed).permutation(len(held_out))[: arguments.max_pairs]
    for number in sorted(chosen.tolist()):
        try:
            sample = reader.read(held_out, number)
            good, bad = decode_image(sample.good_image, sample.key), decode_image(sample.bad_image, sample.key)
        except CorruptDataError:
            continue
        pairs.append(HeldOutPair(good, bad, sample.prompt, sample.subset))
    if not pairs:
        raise InputError("nothing was held out", field="--held-out-share", expected="a larger share, or more data")
    return pairs


class Scorers:
    """The verifiers and rewards, by name. Each is loaded when it is asked first."""

    def __init__(self, arguments: Arguments) -> None:
        self._arguments = arguments
        self._vlm_config = replace(arguments.vlm, device=arguments.device)
        self._loaded: dict[str, Reward] = {}

    @property
    def names(self) -> list[str]:
        asked = [ASKED, *(["VLM, by criteria"] if self._arguments.criteria else [])]
        return [*([TRAINED] if self._arguments.verifier else []), *asked, *REWARDS]

    def scores(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> dict[str, np.ndarray]:
        """float (n,) by name."""
        return {name: self._scorer(name).score(images, prompts) for name in self.names}

    def _scorer(self, name: str) -> Reward:
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def _load(self, name: str) -> Reward:
        if name == TRAINED:
            return TrainedVerifier(self._arguments.verifier, self._vlm_config)
        if name == ASKED:
            return YesNoVerifier(self._vlm_config.open(), load_prompt("micro/verify"))
        if name == "VLM, by criteria":
            return PromptedVerifier(self._vlm_config.open(), load_prompt("micro/judge"))
        return ClipReward(replace(micro_clip(name), device=self._arguments.device))


def preferred(good: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """1 where the good image scores higher, half where both score alike: float (n,)."""
    return (good > bad) + 0.5 * (good == bad)


def measure_pairs(pairs: Sequence[HeldOutPair], scorers: Scorers) -> dict[str, Any]:
    """Pair accuracy overall and by subset, and the trained verifier's lead over each other."""
    prompts = [pair.prompt for pair in pairs]
    good = scorers.scores([pair.good for pair in pairs], prompts)
    bad = scorers.scores([pair.bad for pair in pairs], prompts)
    right = {name: preferred(good[name], bad[name]) for name in good}
    rewards = [name for name in REWARDS if name in good]
    together = [combine_rewards({n: np.array([good[n][i], bad[n][i]]) for n in rewards}) for i in range(len(pairs))]
    right["ensemble"] = np.array([preferred(one[:1], one[1:])[0] for one in map(np.asarray, together)])
    subsets = np.array([pair.subset for pair in pairs])
    figures: dict[str, Any] = {}
    for name, hits in right.items():
        row: dict[str, Any] = {"all": as_data(_over_texts(hits, prompts)), "pairs": len(pairs)}
        for subset in dict.fromkeys(subsets.tolist()):
            mine = subsets == subset
            row[subset] = as_data(_over_texts(hits[mine], [p for p, m in zip(prompts, mine, strict=True) if m]))
        if TRAINED in right and name != TRAINED:
            row["trained_leads_by"] = as_data(_over_texts(right[TRAINED] - hits, prompts))
        figures[name] = row
    return figures


def measure_ranking(
    prompts: Sequence[PromptRecord], images: Sequence[np.ndarray], right: np.ndarray, scorers: Scorers
) -> dict[str, Any]:
    """Share right of the best of N by each scorer. images: N of each prompt, one prompt after the other; right bool
    (prompts, N). `one at random` and `a right one` are the bounds below and above."""
    count = right.shape[1]
    texts = [prompt.text for prompt in prompts for _ in range(count)]
    scores = {name: s.reshape(right.shape) for name, s in scorers.scores(images, texts).items()}
    rewards = [name for name in REWARDS if name in scores]
    scores["ensemble"] = np.stack([combine_rewards({n: scores[n][i] for n in rewards}) for i in range(len(right))])
    picked = {name: right[np.arange(len(right)), s.argmax(1)].astype(float) for name, s in scores.items()}
    picked |= {"one at random": right.mean(1), "a right one": right.any(1).astype(float)}
    tags, names = [prompt.tag or "" for prompt in prompts], [prompt.text for prompt in prompts]
    figures: dict[str, Any] = {}
    for name, hits in picked.items():
        figures[name] = {"right": as_data(mean_over_tags(hits, tags, names)), "prompts": len(prompts)}
        if TRAINED in picked and name != TRAINED:
            figures[name]["trained_leads_by"] = as_data(mean_over_tags(picked[TRAINED] - hits, tags, names))
    return figures


def measure_reflections(wrong: Sequence[WrongImage], told: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Shares of each writer's reflections that name a flaw in their first sentence, name one anywhere, say nothing that
    is not needed, and are instructions at all. The last writer's lead over the first is paired."""
    texts = [w.prompt.text for w in wrong]
    true = {
        writer: np.array([names_one_of(text, w.needed) for text, w in zip(said, wrong, strict=True)], float)
        for writer, said in told.items()
    }
    figures: dict[str, Any] = {}
    for writer, said in told.items():
        sentences = [split_sentences(text) for text in said]
        each = [[names_one_of(s, w.needed) for s in some] for some, w in zip(sentences, wrong, strict=True)]
        figures[writer] = {
            "names_a_flaw": as_data(_over_texts(true[writer], texts)),
            "anywhere": float(np.mean([any(some) for some in each])),
            "nothing_else": float(np.mean([bool(some) and all(some) for some in each])),
            "instructions": float(np.mean([bool(s) and parse_instruction(s[0]) is not None for s in sentences])),
            "images": len(wrong),
        }
    first, last = next(iter(true)), next(reversed(true))
    if first != last:
        figures[last]["leads_by"] = as_data(_over_texts(true[last] - true[first], texts))
    return figures


def _over_texts(values: np.ndarray, texts: Sequence[str]) -> Interval:
    return mean_over_tags(values, ["all"] * len(texts), list(texts))


def measure(arguments: Arguments) -> dict[str, Any]:
    """All parts that there is something for."""
    figures: dict[str, Any] = {"split": arguments.split}
    scorers = Scorers(arguments)
    if arguments.data:
        figures["pairs"] = measure_pairs(held_out_pairs(arguments), scorers)
    if not (arguments.candidates or arguments.reflector):
        return figures
    judge = SegmentationJudge(replace(micro_segmentation_judge(), device=arguments.device))
    generator = FluxGenerator(micro_flux(batch_size=64, device=arguments.device))
    prompts = evaluation_split.SPLITS[f"micro-{arguments.split}"]()
    if arguments.candidates:
        drawn = [(p, i) for p in prompts for i in range(arguments.candidates)]
        images = generator.generate([p.text for p, _ in drawn], [evaluation_seed(p.prompt_id) + i for p, i in drawn])
        right = np.array([v.correct for v in judge.judge(images, [p for p, _ in drawn])])
        figures["ranking"] = measure_ranking(prompts, images, right.reshape(len(prompts), -1), scorers)
        figures["ranking_candidates"] = arguments.candidates
    if arguments.reflector:
        wrong = find_wrong_images(generator, judge, prompts, arguments.per_prompt).images
        vlm = replace(arguments.vlm, device=arguments.device)
        trained = replace(vlm, model=arguments.reflector, endpoint_model="", base_url="")
        told = {"before": reflections_by(vlm.open(), wrong), "after": reflections_by(trained.open(), wrong)}
        figures["reflections"] = measure_reflections(wrong, told)
        figures["examples"] = [
            {"prompt": w.prompt.text, "needed": w.reflection, "before": b, "after": a}
            for w, b, a in list(zip(wrong, *told.values(), strict=True))[:: max(1, len(wrong) // 12)]
        ]
    return figures


def show(figures: dict[str, Any]) -> None:
    """The tables that people read."""

    if "pairs" in figures:
        rows = figures["pairs"]
        subsets = [name for name in next(iter(rows.values())) if name not in ("all", "pairs", "trained_leads_by")]
        print_table(
            ["good image preferred", "all", *subsets, "trained leads by"],
            [
                [
                    name,
                    cell_of(row["all"]),
                    *(f"{row[s]['value']:.3f}" for s in subsets),
                    cell_of(row.get("trained_leads_by")),
                ]
                for name, row in rows.items()
            ],
        )
    if "ranking" in figures:
        print(f"\nbest of {figures['ranking_candidates']}")
        rows = [[n, cell_of(r["right"]), cell_of(r.get("trained_leads_by"))] for n, r in figures["ranking"].items()]
        print_table(["chosen by", "right", "trained leads by"], rows)
    if "reflections" in figures:
        print()
        print_table(
            ["reflections", "name a flaw", "leads by", "anywhere", "nothing else", "instructions"],
            [
                [
                    name,
                    cell_of(row["names_a_flaw"]),
                    cell_of(row.get("leads_by")),
                    *(f"{row[key]:.3f}" for key in ("anywhere", "nothing_else", "instructions")),
                ]
                for name, row in figures["reflections"].items()
            ],
        )


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    circumstances = Circumstances.now(f"python -m benchmarks.corrector.verifier_reflector {' '.join(sys.argv[1:])}")
    figures = measure(arguments)
    show(figures)
    name = arguments.name or name_on_split("verifier_reflector", arguments.split)
    path: Path = save(name, circumstances, figures, "the asked VLM, each reward, and the VLM before training", TARGET)
    print(f"\n{path}")


if __name__ == "__main__":
    run_command(main)
