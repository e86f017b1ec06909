"""Every figure of the micro family's model card, each with its count and its target.

`python -m benchmarks.micro.micro_card [--only generator judge]` measures on held-out scenes and on the evaluation
split's dev prompts (the sealed test part is for the final tables), merges the figures into
`benchmarks/results/micro_card.json`, and writes the table of `microworld/README.md` anew. A model without weights is
left out and named.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from benchmarks.micro.micro_rewards import preferred_share
from benchmarks.results_file import RESULTS, Circumstances, print_table, save
from inference.flux.generator import FluxGenerator
from inference.judges.geneval_scoring import score_by_tag
from inference.judges.segmentation_judge import SegmentationJudge
from microworld.family import (
    micro_flux,
    micro_grounded_sam,
    micro_qwen,
    micro_rewards,
    micro_segmentation_judge,
    micro_vlm,
)
from microworld.scenes.captions import caption_of_record, sample_scene, sample_training_caption
from microworld.scenes.evaluation_split import dev_prompts, evaluation_seed
from microworld.scenes.world import random_scene, render
from microworld.weights_folder import MICRO_WEIGHTS
from schemas.errors import MissingWeightsError
from schemas.records import Check, PromptRecord

CARD = Path("microworld/README.md")
BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"
SCENE_SEED = 4_000_037
ORACLE_IMAGES = 16
READ_PROMPTS = 100  # of each form
VLM_TARGETS = {
    "yes/no scenes": 0.92,
    "counting scenes": 0.92,
    "yes/no generated": 0.85,
    "counting generated": 0.85,
    "names the difference": 0.8,
    "compare JSON valid": 0.98,
    "judge JSON valid": 0.98,
}
Section = Literal[
    "renderer", "vae", "generator", "grounding", "rewards", "vlm", "verifier", "reflector", "teacher", "reader", "judge"
]


@dataclass(frozen=True)
class Figure:
    """One row. count: images, scenes or questions behind the value; met: None where it is no target."""

    figure: str
    value: float
    count: int
    target: str = ""
    met: bool | None = None


def at_least(name: str, value: float, count: int, target: float) -> Figure:
    return Figure(name, value, count, f"≥ {target:g}", value >= target)


@cache
def judge() -> SegmentationJudge:
    return SegmentationJudge(micro_segmentation_judge())


@cache
def dev_images(images_per_prompt: int) -> tuple[list[PromptRecord], list[np.ndarray]]:
    """The default generator on every dev prompt; image i of a prompt has seed `evaluation_seed` + i."""
    prompts = [prompt for prompt in dev_prompts() for _ in range(images_per_prompt)]
    seeds = [evaluation_seed(p.prompt_id) + i % images_per_prompt for i, p in enumerate(prompts)]
    return prompts, FluxGenerator(micro_flux()).generate([p.text for p in prompts], seeds)


@cache
def dev_verdicts(images_per_prompt: int) -> list[Check]:
    prompts, images = dev_images(images_per_prompt)
    return judge().judge(images, prompts)


def renderer() -> list[Figure]:
    rng = np.random.default_rng(SCENE_SEED)
    scenes = [random_scene(rng) for _ in range(4000)]
    start = time.perf_counter()
    for i in range(0, len(scenes), 250):
        render(scenes[i : i + 250])
    return [at_least("images a second, one core", len(scenes) / (time.perf_counter() - start), len(scenes), 1000)]


def vae() -> list[Figure]:
    from microworld.training.grounding_evaluation import to_prompt, vae_round_trip

    round_trip = vae_round_trip(MICRO_WEIGHTS)
    rng = np.random.default_rng(SCENE_SEED + 1)
    captions = [sample_training_caption(rng) for _ in range(512)]
    images = render([sample_scene(rng, caption) for caption in captions]).images
    decoded = round_trip(images)
    error = np.square(images.astype(float) - decoded).mean()
    right = [c.correct for c in judge().judge(list(decoded), [to_prompt(caption) for caption in captions])]
    return [
        at_least("PSNR on scenes, dB", float(10 * np.log10(255**2 / error)), len(images), 27),
        at_least("judge on reconstructions of right scenes", float(np.mean(right)), len(right), 0.95),
    ]


def generator() -> list[Figure]:
    import torch

    drawing = FluxGenerator(replace(micro_flux(), batch_size=10))
    texts = [p.text for p in dev_prompts()[::6]]
    drawing.generate(texts[:10], list(range(10)))
    start = time.perf_counter()
    drawing.generate(texts, list(range(len(texts))))
    rate = len(texts) / (time.perf_counter() - start)
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    start = time.perf_counter()
    for _ in range(50):
        a @ b
    yardstick = 50 * 2 * 1024**3 / (time.perf_counter() - start) / 1e9

    prompts, _ = dev_images(1)
    verdicts = dev_verdicts(1)
    scores = score_by_tag([p.tag or "" for p in prompts], [v.correct for v in verdicts])
    overall = scores.pop("overall")
    weakest = min(scores, key=lambda tag: scores[tag])
    per_tag = len(prompts) // len(scores)
    figures = [Figure("right, overall", overall, len(prompts), ".45 to .60", 0.45 <= overall <= 0.60)]
    figures.append(at_least("right, single_object", scores["single_object"], per_tag, 0.8))
    figures.append(at_least(f"right, the weakest tag ({weakest})", scores[weakest], per_tag, 0.15))
    figures += [Figure(f"right, {tag}", share, per_tag) for tag, share in scores.items() if tag != "single_object"]
    right = np.array([v.correct for v in dev_verdicts(ORACLE_IMAGES)]).reshape(-1, ORACLE_IMAGES)
    figures.append(at_least(f"a right one among {ORACLE_IMAGES}", float(right.any(1).mean()), len(right), 0.85))
    cfg = replace(micro_flux(), guidance=1.0, true_cfg_scale=2.5)
    texts_all, seeds = [p.text for p in prompts], [evaluation_seed(p.prompt_id) for p in prompts]
    guided = judge().judge(FluxGenerator(cfg).generate(texts_all, seeds), prompts)
    share = score_by_tag([p.tag or "" for p in prompts], [v.correct for v in guided])["overall"]
    figures.append(Figure("right, overall, by true guidance 2.5 (twice the passes)", share, len(prompts)))
    figures.append(at_least("images a second, batch of 10", rate, len(texts), 10))
    figures.append(Figure("matrix products beside it, GFLOP/s", yardstick, 50))
    return figures


def grounding() -> list[Figure]:
    from microworld.training.grounding_evaluation import evaluate

    report: Any = evaluate(MICRO_WEIGHTS)
    figures = [
        at_least("GroundingDINO, AP50 on scenes", report["clean"]["ap50"], report["num_scenes"], 0.95),
        Figure("the same through the VAE", report["through_vae"]["ap50"], report["num_scenes"]),
        at_least("SAM, mean IoU from boxes", report["clean"]["mean_iou"], report["num_scenes"], 0.9),
        Figure("the same through the VAE", report["through_vae"]["mean_iou"], report["num_scenes"]),
    ]
    prompts, images = dev_images(1)
    ours = micro_grounded_sam().open().check(images, prompts)
    same = [a.correct == b.correct for a, b in zip(ours, dev_verdicts(1), strict=True)]
    return [*figures, at_least("agrees with the judge on generated images", float(np.mean(same)), len(same), 0.9)]


def rewards() -> list[Figure]:
    from inference.rewards.ensemble import combine_rewards

    prompts, images = dev_images(ORACLE_IMAGES)
    right = np.array([v.correct for v in dev_verdicts(ORACLE_IMAGES)]).reshape(-1, ORACLE_IMAGES)
    texts = [p.text for p in prompts]
    scores = {r.name: r.open().score(images, texts).reshape(right.shape) for r in micro_rewards()}
    scores["ensemble"] = np.stack([combine_rewards({n: s[i] for n, s in scores.items()}) for i in range(len(right))])
    mixed = np.flatnonzero(right.any(1) & ~right.all(1))
    shares = {n: float(np.mean([preferred_share(s[i], right[i]) for i in mixed])) for n, s in scores.items()}
    best = max(share for name, share in shares.items() if name != "ensemble")
    figures = [at_least(f"{n}: right preferred to wrong", s, len(mixed), 0.7) for n, s in shares.items()]
    gain = Figure(
        "ensemble over the best single one", shares["ensemble"] - best, len(mixed), "> 0", shares["ensemble"] > best
    )
    return [*figures, gain]


def vlm() -> list[Figure]:
    from inference.vlm.in_process import InProcessVlm
    from microworld.training.vlm_evaluation import EvaluationConfig, evaluate_vlm

    many = EvaluationConfig(
        num_images=240, num_pairs=240, num_judged=100, num_reflected=200, num_concepts=42, num_overlays=300
    )
    shares = evaluate_vlm(InProcessVlm(micro_qwen()), read_by_the_judge(), many, seed=1)
    figures = []
    for name, share in shares.items():
        target = VLM_TARGETS.get(name)
        row = Figure(name, share.value, share.total)
        figures.append(row if target is None else at_least(name, share.value, share.total, target))
    return figures


def read_by_the_judge() -> list[Any]:
    """Generated dev images whose objects are all clear shapes to the judge, with what it sees as their truth."""
    from benchmarks.dataset.referee import scene_of
    from microworld.training.vlm_images import PooledImage, can_be_told

    prompts, images = dev_images(1)
    clear = judge().config.thresholds.counting
    pooled = []
    for prompt, image, objects in zip(prompts, images, judge().find_objects(images), strict=True):
        scene = scene_of(tuple(objects), clear)
        if len(scene.objects) == len(objects) and can_be_told(scene):
            pooled.append(PooledImage(image, scene, caption_of_record(prompt)))
    return pooled


def verifier() -> list[Figure]:
    from inference.vlm.in_process import InProcessVlm
    from inference.vlm.prompts import load_prompt
    from inference.vlm.trained_verifier import TrainedVerifier
    from inference.vlm.yes_no_verifier import YesNoVerifier

    prompts, images = dev_images(ORACLE_IMAGES)
    right = np.array([v.correct for v in dev_verdicts(ORACLE_IMAGES)]).reshape(-1, ORACLE_IMAGES)
    mixed = np.flatnonzero(right.any(1) & ~right.all(1))
    chosen = [int(i) * ORACLE_IMAGES + j for i in mixed for j in range(ORACLE_IMAGES)]
    some, texts = [images[i] for i in chosen], [prompts[i].text for i in chosen]
    scorers: dict[str, Any] = {"yes or no": YesNoVerifier(InProcessVlm(micro_qwen()), load_prompt("micro/verify"))}
    if (MICRO_WEIGHTS / "verifier").is_dir():
        scorers["Bradley-Terry"] = TrainedVerifier("micro/verifier", micro_vlm())
    figures = []
    for name, scorer in scorers.items():
        scores = scorer.score(some, texts).reshape(-1, ORACLE_IMAGES)
        share = float(np.mean([preferred_share(scores[n], right[i]) for n, i in enumerate(mixed)]))
        figures.append(at_least(f"{name}: right preferred to wrong", share, len(mixed), 0.8))
    return figures


def reflector() -> list[Figure]:
    from benchmarks.corrector.wrong_images import find_wrong_images, reflections_by
    from benchmarks.dataset.referee import names_one_of

    found = find_wrong_images(FluxGenerator(micro_flux()), judge(), dev_prompts(), 2)
    figures = []
    for name, model in (("the VLM's", "micro/vlm"), ("the reflector's", "micro/reflector")):
        if (MICRO_WEIGHTS / model.removeprefix("micro/")).is_dir():
            told = reflections_by(micro_vlm(model=model).open(), found.images)
            true = [names_one_of(text, image.needed) for text, image in zip(told, found.images, strict=True)]
            figures.append(Figure(f"{name} reflections name a real flaw", float(np.mean(true)), len(true)))
    return figures


def teacher() -> list[Figure]:
    from microworld.training.teacher import KINDS, TeacherRecipe, said_yes
    from microworld.training.vlm_evaluation import evaluate_vlm

    figures, cases = [], ("right", "otherwise", "missing")
    for name in ("vlm", "teacher"):
        vlm = micro_vlm(model=f"micro/{name}").open()
        said = said_yes(vlm, TeacherRecipe().evaluated)
        for case in cases:
            for kind in KINDS:
                share = said[f"{kind} {case}"]
                figures.append(Figure(f"the {name}'s yes, {kind} {case}", share.value, share.total))
        for case in ("place right", "place otherwise", "concept in a texture"):
            figures.append(Figure(f"the {name}'s yes, {case}", said[case].value, said[case].total))
    kept = evaluate_vlm(vlm)
    for what in ("yes/no scenes", "counting scenes", "open scenes", "verify scenes", "concepts", "overlays"):
        figures.append(Figure(f"as the VLM's: {what}", kept[what].value, kept[what].total))
    return figures


def reader() -> list[Figure]:
    from benchmarks.micro.reader_prompts import OTHERS, OWN
    from microworld.scenes.requirement_prompts import FORMS, Reading
    from microworld.training.reader import is_right, read_right, request_of
    from pipelines.prompts.overlap import geneval_prompts

    vlm = micro_vlm(model="micro/reader").open()
    shares = read_right(vlm, READ_PROMPTS)
    figures = [Figure(f"reads all of a prompt, {form}", shares[form].value, shares[form].total) for form in FORMS]
    own = [Reading("", text, clauses) for text, clauses in OWN]
    benchmark = [Reading("", record.text, caption_of_record(record).clauses) for record in dev_prompts()]
    for name, readings in (("by hand, in other words", own), ("the dev split", benchmark)):
        told = vlm.answer([request_of(reading.text) for reading in readings])
        right = [is_right(reading, answer.text) for reading, answer in zip(readings, told, strict=True)]
        figures.append(Figure(f"reads all of a prompt, {name}", float(np.mean(right)), len(right)))
    foreign = [record.text for record in geneval_prompts()]
    for name, texts in (("by hand", list(OTHERS)), ("GenEval's", foreign)):
        told = vlm.answer([request_of(text) for text in texts])
        silent = [is_right(Reading("", text), answer.text) for text, answer in zip(texts, told, strict=True)]
        figures.append(Figure(f"says nothing of other worlds' prompts, {name}", float(np.mean(silent)), len(silent)))
    return figures


def judge_itself() -> list[Figure]:
    from microworld.training.judge_evaluation import accuracy, evaluate
    from microworld.training.vae_noise import VaeNoise

    report: Any = evaluate(MICRO_WEIGHTS, VaeNoise(MICRO_WEIGHTS / "flux" / "vae", 0.6))
    (agreed, total), (agreed_vae, total_vae) = (accuracy(report[n]) for n in ("verdicts", "verdicts_through_vae"))
    return [
        at_least("verdicts on scenes", agreed / total, total, 0.98),
        Figure("the same through the VAE", agreed_vae / total_vae, total_vae),
    ]


MET = {True: "yes", False: "no", None: ""}
SECTIONS: dict[Section, Callable[[], list[Figure]]] = {
    "renderer": renderer,
    "vae": vae,
    "generator": generator,
    "grounding": grounding,
    "rewards": rewards,
    "vlm": vlm,
    "verifier": verifier,
    "reflector": reflector,
    "teacher": teacher,
    "reader": reader,
    "judge": judge_itself,
}


@dataclass(frozen=True)
class Arguments:
    """Which parts are measured."""

    only: tuple[Section, ...] = ()
    """Default: all. What is not measured keeps the figures it has."""


def table(figures: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown; what misses its target is said to."""
    lines = ["| model | figure | measured | of | target |", "|---|---|---|---|---|"]
    for section, rows in figures.items():
        for row in rows:
            value = f"{row['value']:.3f}" if row["value"] < 10 else f"{row['value']:.1f}"
            target = row["target"] + (" (missed)" if row["met"] is False else "")
            lines.append(f"| {section} | {row['figure']} | {value} | {row['count']} | {target} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, save, print, and renew the card."""
    arguments = tyro.cli(Arguments)
    circumstances = Circumstances.now("python -m benchmarks.micro.micro_card")
    path = RESULTS / "micro_card.json"
    figures: dict[str, list[dict[str, Any]]] = json.loads(path.read_text())["figures"] if path.exists() else {}
    for name in arguments.only or SECTIONS:
        try:
            rows = SECTIONS[name]()
        except MissingWeightsError as error:
            print(f"{name}: left out: {error}", flush=True)
            continue
        figures[name] = [asdict(row) for row in rows]
        print_table(
            [name, "measured", "of", "target", "met"],
            [[r.figure, f"{r.value:.3f}", r.count, r.target, MET[r.met]] for r in rows],
        )
        ordered = {name: figures[name] for name in SECTIONS if name in figures}
        save("micro_card", circumstances, ordered, compared_with="the targets in the table", path=path)
        renew_card(table(ordered))


def renew_card(new_table: str) -> None:
    """Put the table between the two marks of the model card."""
    before, rest = CARD.read_text().split(BEGIN)
    _, after = rest.split(END)
    CARD.write_text(f"{before}{BEGIN}\n{new_table}\n{END}{after}")


if __name__ == "__main__":
    main()
