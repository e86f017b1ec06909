"""What a distilled concept's folder shows: a card for programs and one for people, a curve, images before and after."""

from __future__ import annotations

import json
import logging
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from inference.dual.concept import Concept
from schemas.atomic_file import write_whole
from schemas.digests import check_manifest
from schemas.errors import CorruptDataError
from trainers.distilled import Distilled
from trainers.dual_process_config import DualProcessConfig

log = logging.getLogger(__name__)

CARD = "card.json"  # written last: a folder that has it is finished
GRID = "grid.png"
CURVE = "curve.png"
_READ_BACK = {"key", "converged", "probability_before", "probability_after", "seconds"}
GRID_PX = 128  # of an image's side in the grid, at least
GAP_PX = 4


def write_card(out: Path, distilled: Distilled, config: DualProcessConfig, command: str = "") -> None:
    """`grid.png`, `curve.png`, `README.md` and, last, `card.json`. command: that draws with the LoRA."""
    Image.fromarray(before_after(distilled)).save(out / GRID)
    draw_curve(distilled, out / CURVE, config.stop_probability)
    (out / "README.md").write_text(readme(distilled, config, command), encoding="utf-8")
    write_whole(out / CARD, json.dumps(card(distilled, config, command), indent=1, ensure_ascii=False) + "\n")


def drawing_command(prompt: str, flags: str, kind: str, lora: Path) -> str:
    """A line of shell that draws a prompt. flags: all but the LoRA's; kind: of generator."""
    said = f"{flags} --generator.{kind}.lora {shlex.quote(str(lora))}".strip()
    return f"python -m inference generate {shlex.quote(prompt)} {said}"


def card(distilled: Distilled, config: DualProcessConfig, command: str = "") -> dict[str, Any]:
    """Plain data."""
    concept = distilled.concept
    return {
        "name": concept.name,
        "prompt": concept.prompt,
        "other_prompts": list(concept.other_prompts),
        "questions": _questions(concept),
        "also": [
            {
                "prompt": one.prompt,
                "questions": _questions(one),
                "probability_before": round(before.probability, 4),
                "probability_after": round(after.probability, 4),
            }
            for one, (before, after) in zip(concept.also, distilled.also, strict=True)
        ],
        "command": command,
        "key": distilled.key,
        "converged": distilled.converged,
        "why_not": distilled.why_not,
        "steps": len(distilled.curve),
        "seconds": round(distilled.seconds, 2),
        "probability_before": round(distilled.before.probability, 4),
        "probability_after": round(distilled.after.probability, 4),
        "probabilities_before": np.round(distilled.before.probabilities, 4).tolist(),
        "probabilities_after": np.round(distilled.after.probabilities, 4).tolist(),
        "curve": [asdict(point) for point in distilled.curve],
        "fooled": distilled.fooled is not None,
        "referee": _refereed(distilled, config),
        "config": json.loads(json.dumps(config.described(), default=str)),
    }


def _questions(concept: Concept) -> list[dict[str, Any]]:
    return [
        {"question": q.question, "answer": q.answer, "overlays": [type(o).__name__ for o in q.overlays]}
        | ({"paraphrases": list(q.paraphrases)} if q.paraphrases else {})
        for q in concept.questions
    ]


def _refereed(distilled: Distilled, config: DualProcessConfig) -> dict[str, Any] | None:
    """Both curves, by question, and where they parted; None where nobody looked on."""
    if config.referee is None:
        return None
    said, fooled = (
        {"model": config.referee.model, "looks": [asdict(look) for look in distilled.looks]},
        distilled.fooled,
    )
    parted = {"parted_at": fooled.step, "parted_over": fooled.question, "kept_step": fooled.kept_step} if fooled else {}
    return said | parted


def finished_key(folder: Path) -> str | None:
    """The key of the concept that a folder holds finished; None where it is not, or where a file of it has other bytes
    than were written, which is said."""
    try:
        card = json.loads((folder / CARD).read_bytes())
        check_manifest(folder)
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    except CorruptDataError as error:
        log.warning("%s; what the folder holds is made again", error)
        return None
    return card["key"] if isinstance(card, dict) and card.keys() >= _READ_BACK else None


def readme(distilled: Distilled, config: DualProcessConfig, command: str = "") -> str:
    """For people, and for a model hub."""
    concept, before, after = distilled.concept, distilled.before.probability, distilled.after.probability
    asked = "\n".join(f"- {q.question} **{q.answer}**" for q in concept.questions)
    why, fooled = distilled.why_not, distilled.fooled
    verdict = f"\n**{'Fooled' if fooled else 'Not learnt'}**: {why}.\n" if why else ""
    if fooled:
        verdict += f"\nThis LoRA is of step {fooled.kept_step}, when the two had not parted.\n"
    below = ", and below what the VLM was fooled by" if fooled else ""
    drawn = f"\n```bash\n{command}\n```\n" if command else ""
    others = ", ".join(f'"{prompt}"' for prompt in concept.other_prompts)
    also = "".join(
        f'\n- "{one.prompt}": {was.probability:.2f} before, {now.probability:.2f} after'
        for one, (was, now) in zip(concept.also, distilled.also, strict=True)
    )
    if also:
        also = f"\nIn turn with it these were taught:\n{also}\n"
    return f"""---
base_model: {config.generator.model}
tags: [lora, dual-process-distillation]
---
# {concept.name}

A LoRA of `{config.generator.model}` for "{concept.prompt}"{f" (also meant for {others})" if others else ""}, taught by
`{config.teacher.model}` in {len(distilled.curve)} steps ({distilled.seconds:.0f} s):

{asked}
{verdict}
The answers' probability on {len(distilled.before.images)} seeds that were not trained on: {before:.2f}
before, {after:.2f} after.
{also}
![Before (above) and after, the same seeds{below}](grid.png) ![The answers' probability while it was trained](curve.png)

`{config.generator.pipeline}.load_lora_weights` loads this folder; draw with {config.generator.num_steps} steps at
{config.generator.size_px} px, as it was trained.
{drawn}"""


def before_after(distilled: Distilled) -> np.ndarray:
    """uint8 (H, W, 3): the same seeds before (above) and after, under the overlay that they were asked about; of a
    training that was fooled, below that, what the VLM was sure of."""
    overlaid = next((q for q in distilled.concept.questions if q.overlays), None)

    def row(images: np.ndarray) -> np.ndarray:
        scale = max(1, GRID_PX // images.shape[1])
        shown = [image.repeat(scale, 0).repeat(scale, 1) for image in images]
        if overlaid is not None:
            shown = [overlaid.shown(image) for image in shown]
        padded = [np.pad(image, ((0, GAP_PX), (0, GAP_PX), (0, 0)), constant_values=255) for image in shown]
        return np.concatenate(padded, axis=1)

    shown = [distilled.before.images, distilled.after.images]
    if distilled.fooled is not None and distilled.fooled.images is not None:
        shown.append(distilled.fooled.images)
    return np.concatenate([row(images) for images in shown])


def draw_curve(distilled: Distilled, path: Path, bound: float) -> None:
    """Probability of the wanted answers against steps: each step's, the mean of the last ten, and what teacher and
    referee say of finished images: of the question over which they parted, or of all."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3), dpi=100, layout="constrained")
    axes = figure.subplots()
    steps = [point.step for point in distilled.curve]
    values = [point.probability for point in distilled.curve]
    means = [float(np.mean(values[max(0, i - 9) : i + 1])) for i in range(len(values))]
    axes.plot(steps, values, ".", color="0.7", markersize=3, label="step")
    axes.plot(steps, means, color="tab:blue", label="mean of ten")
    if distilled.looks:
        over = distilled.fooled.question if distilled.fooled else None
        at = [look.step for look in distilled.looks]
        for color, name, marker in (("tab:blue", "teacher", "o"), ("tab:orange", "referee", "s")):
            told = [np.array(getattr(look, name)) for look in distilled.looks]
            seen = [float(each.mean() if over is None else each[over]) for each in told]
            what = "finished images" if over is None else f"question {over + 1}"
            axes.plot(at, seen, f"{marker}--", color=color, markersize=4, linewidth=1, label=f"{name}, {what}")
    axes.axhline(bound, color="tab:red", linewidth=0.8, linestyle="--", label="ends training")
    axes.set(xlabel="step", ylabel="probability of the answers", ylim=(0, 1.02))
    axes.legend(fontsize=7, loc="upper left" if distilled.looks else "lower right")  # a referee's line may stay low
    figure.savefig(path, metadata={"Software": None})
