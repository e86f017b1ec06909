"""Does the gradient of a teacher's answer point to the change that makes an image right?

`python -m benchmarks.dual_process.gradient_direction` renders pairs of a wrong image and the right one that differ in
what is asked about alone: another colour, an object that is missing, a horizon that stands elsewhere or is missing, an
outline of another thickness or none. On the straight path of pixels between them it takes the gradient of the wanted
answer: its cosine with the way that is left, and how much of its square lies in the pixels that must change (divided
by their share of the image: 1 is what a gradient to nowhere has). Of each teacher, on the same pairs; two minutes.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import tyro

from benchmarks.results_file import Circumstances, print_table, run_command, save
from inference.dual.concept import QuestionAnswer
from inference.dual.questions import questions_about
from inference.judges.intervals import mean_over_tags
from inference.vlm.overlays import HorizonPosition, LineWeight
from microworld.scenes.overlay_questions import HORIZONS_PX, MIN_HORIZON_GAP_PX, STROKES_PX, sample_missing
from microworld.scenes.world import (
    COLORS,
    FRAME_PX,
    Background,
    Scene,
    random_background,
    random_scene,
    render,
)
from trainers.vqa_loss import TeacherConfig, VqaTeacher

SEED = 17
PATH = (0.0, 0.25, 0.5, 0.75)
CHANGED = 8  # of 255: a pixel that changes by more must change


@dataclass(frozen=True)
class Arguments:
    """Who is asked, and how often."""

    teachers: tuple[str, ...] = ("micro/vlm", "micro/teacher")
    pairs: int = 60
    """Of each kind."""


@dataclass(frozen=True)
class Pair:
    """wrong, right: uint8 (32, 32, 3)."""

    wrong: np.ndarray
    right: np.ndarray
    asked: QuestionAnswer


def main() -> None:
    """Measure all teachers, print and save."""
    arguments = tyro.cli(Arguments, description=__doc__)
    circumstances = Circumstances.now(" ".join(["python -m benchmarks.dual_process.gradient_direction", *sys.argv[1:]]))
    figures: dict[str, Any] = {"arguments": asdict(arguments)}
    rows = []
    pairs = {kind: sampled(kind, arguments.pairs) for kind in KINDS}
    for name in arguments.teachers:
        teacher = VqaTeacher(TeacherConfig(name))
        for kind, of_kind in pairs.items():
            found = [along(teacher, pair) for pair in of_kind]
            figures.setdefault(kind, {})[name] = summary(found)
            rows.append([kind, name, *shown(figures[kind][name])])
    print_table(
        ["wrong image", "teacher", "cosine at the start", "cosine halfway", "in what must change", "p(yes) on the way"],
        rows,
    )
    path = save("gradient_direction", circumstances, figures, compared_with=arguments.teachers[0])
    print(f"figures: {path}")


def along(teacher: VqaTeacher, pair: Pair) -> dict[str, list[float]]:
    """Cosine, concentration and probability of the answer at the points of the path."""
    import torch

    wrong, right = (torch.from_numpy(i).permute(2, 0, 1)[None].float() / 255 for i in (pair.wrong, pair.right))
    changed = ((right - wrong).abs().amax(1) > CHANGED / 255)[0]
    found: dict[str, list[float]] = {"cosine": [], "concentration": [], "probability": []}
    for share in PATH:
        pixels = (wrong + share * (right - wrong)).requires_grad_()
        loss = teacher.losses(pixels, pair.asked).sum()
        (slope,) = torch.autograd.grad(loss, pixels)
        cosine = torch.nn.functional.cosine_similarity(-slope.flatten(), (right - wrong).flatten(), 0)
        energy = slope.square().sum(1)[0]
        found["cosine"].append(float(cosine))
        found["concentration"].append(float(energy[changed].sum() / energy.sum() / changed.float().mean()))
        found["probability"].append(float((-loss.detach()).exp()))
    return found


def summary(found: list[dict[str, list[float]]]) -> dict[str, Any]:
    """Means with 95 % intervals over pairs, a value a point of the path."""
    return {
        name: [
            mean_over_tags([one[name][i] for one in found], ["all"] * len(found), list(range(len(found)))).as_list()
            for i in range(len(PATH))
        ]
        for name in found[0]
    }


def shown(figures: dict[str, Any]) -> list[str]:
    """A row's cells."""
    cosines = [f"{v[0]:+.3f} [{v[1]:+.3f}, {v[2]:+.3f}]" for v in (figures["cosine"][0], figures["cosine"][2])]
    ways = " ".join(f"{v[0]:.2f}" for v in figures["probability"])
    return [*cosines, f"{figures['concentration'][0][0]:.1f}", ways]


def sampled(kind: str, number: int) -> list[Pair]:
    """The same pairs in every run."""
    rng = np.random.default_rng([SEED, list(KINDS).index(kind)])
    found: list[Pair] = []
    while len(found) < number:
        pair = KINDS[kind](rng)
        if np.abs(pair.right.astype(int) - pair.wrong).max() > CHANGED:  # two lines may fill a small shape alike
            found.append(pair)
    return found


def _rendered(wrong: Scene, right: Scene, asked: QuestionAnswer) -> Pair:
    images = render([wrong, right]).images
    return Pair(images[0], images[1], asked)


def _another_color(rng: np.random.Generator) -> Pair:
    scene = random_scene(rng, 1)
    colors = [name for name in COLORS if name != scene.objects[0].color]
    right = replace(scene.objects[0], color=str(rng.choice(colors)))
    (*_, asked) = questions_about(f"a photo of a {right.color} {right.shape}")
    return _rendered(scene, replace(scene, objects=(right,)), asked)


def _no_object(rng: np.random.Generator) -> Pair:
    scene = random_scene(rng, 1)
    (*_, asked) = questions_about(f"a photo of a {scene.objects[0].color} {scene.objects[0].shape}")
    return _rendered(replace(scene, objects=()), scene, asked)


def _horizon(rng: np.random.Generator, wrong: Background | None) -> Pair:
    scene = random_scene(rng, 1)
    top, bottom = (random_background(rng, 0.0).top for _ in range(2))
    line = float(rng.uniform(*HORIZONS_PX))
    right = Background("horizon", top, bottom, line)
    if wrong is None:
        wrong = Background("plain", top, top)
    else:
        at = float(rng.uniform(*HORIZONS_PX))
        while abs(at - line) < MIN_HORIZON_GAP_PX:
            at = float(rng.uniform(*HORIZONS_PX))
        wrong = replace(right, horizon_px=at)
    overlay = HorizonPosition(line / FRAME_PX)
    asked = QuestionAnswer(overlay.question, overlays=(overlay,))
    return _rendered(replace(scene, background=wrong), replace(scene, background=right), asked)


def _line(rng: np.random.Generator, is_filled: bool) -> Pair:
    scene = sample_missing(rng, "line weight").scene
    while len(scene.objects) != 1:
        scene = sample_missing(rng, "line weight").scene
    stroke, other = rng.permutation(STROKES_PX)[:2].tolist()
    right = replace(scene.objects[0], stroke=stroke)
    wrong = replace(right, stroke=0.0 if is_filled else other)
    overlay = LineWeight(stroke / FRAME_PX)
    asked = QuestionAnswer(overlay.question, overlays=(overlay,))
    return _rendered(replace(scene, objects=(wrong,)), replace(scene, objects=(right,)), asked)


KINDS = {
    "another colour": _another_color,
    "no object": _no_object,
    "horizon elsewhere": lambda rng: _horizon(rng, Background()),
    "no horizon": lambda rng: _horizon(rng, None),
    "another thickness": lambda rng: _line(rng, False),
    "filled": lambda rng: _line(rng, True),
}


if __name__ == "__main__":
    run_command(main)
