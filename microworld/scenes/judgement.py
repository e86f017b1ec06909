"""A verifier's judgement of a prompt: the paper's criteria of each tag, scored by plain rules from a scene's truth."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from inference.vlm.criteria import CRITERIA
from microworld.scenes.captions import Caption, is_true_of
from microworld.scenes.corrections import corrections, inventory
from microworld.scenes.instructions import Operation, instruction
from microworld.scenes.questions import NUMBERS
from microworld.scenes.world import COLORS, FRAME_PX, Scene, SceneObject

FULL_GAP_PX, FULL_CONTRAST = 4.0, 160.0  # a gap, and a distance in RGB, that earn all ten points


def judge_prompt(caption: Caption, scene: Scene) -> dict[str, dict[str, Any]]:
    """A verifier's JSON object: the three criteria of the caption's tag and overall_score, each with a score in 0..10
    and an explanation.

    Scores: completeness and relationship_accuracy, share of the objects asked for that are there; count_accuracy, how
    far the number is off; color_fidelity, attribute_binding and consistencies, share of the objects of a clause's shape
    with its colour; position_accuracy, 10 or 0; occlusion and separation, the smallest gap (4 px are 10 points);
    detectability and contrast, the smallest RGB distance to the background behind the object (160 are 10 points);
    perspective_consistency and object_uniformity, smallest by largest size. Criteria of missing objects are 0.
    overall_score is the mean of the three, at least 8 if the caption is true and at most 4 if it is false.
    """
    judged = {name: _criterion(name, caption, scene) for name in CRITERIA[caption.tag]}
    mean = round(float(np.mean([score for score, _ in judged.values()])))
    if is_true_of(caption, scene):
        judged["overall_score"] = max(mean, 8), "The image matches the prompt."
    else:
        todo = " ".join(instruction(e) for e in corrections(caption, scene))
        judged["overall_score"] = min(mean, 4), f"The image does not match the prompt. {todo}"
    return {name: {"score": score, "explanation": why} for name, (score, why) in judged.items()}


def _criterion(name: str, caption: Caption, scene: Scene) -> tuple[int, str]:
    there = f"There {'is' if len(scene.objects) < 2 else 'are'} {inventory(scene)}."
    asked = [o for o in scene.objects if any(c.shape == o.shape for c in caption.clauses)]
    if not asked:
        return 0, there
    match name:
        case "object_completeness" | "individual_completeness" | "relationship_accuracy":
            return _ten(_share_present(caption, scene)), there
        case "count_accuracy":
            wanted = sum(c.count for c in caption.clauses)
            off = abs(len(asked) - wanted) / wanted
            return _ten(1 - off), f"Expected {NUMBERS[wanted]}, found {NUMBERS[len(asked)]}."
        case "color_fidelity" | "attribute_binding" | "multi_object_consistency" | "material_consistency":
            return _ten(_share_colored(caption, asked)), there
        case "position_accuracy":
            if _share_present(caption, scene) < 1:
                return 0, there
            moves = [edit for edit in corrections(caption, scene) if edit.operation is Operation.MOVE]
            return (0, instruction(moves[0])) if moves else (10, "The position is correct.")
        case "occlusion_handling" | "occlusion_management" | "separation_clarity" | "spatial_legibility":
            share = _smallest_gap(scene) / FULL_GAP_PX
            return _ten(share), "The objects are separate." if share > 0 else "The objects are overlapping."
        case "object_uniformity" | "perspective_consistency":
            sizes = [o.size for o in asked]
            even = min(sizes) / max(sizes)
            return _ten(even), f"The objects have {'the same' if even > 0.8 else 'different'} size."
        case _:
            contrast = min(_contrast(scene, o) for o in asked) / FULL_CONTRAST
            return _ten(contrast), f"The contrast to the background is {'clear' if contrast > 0.6 else 'low'}."


def _ten(share: float) -> int:
    return round(10 * min(max(share, 0.0), 1.0))


def _share_present(caption: Caption, scene: Scene) -> float:
    found = Counter(o.shape for o in scene.objects)
    return float(np.mean([min(found[c.shape], c.count) / c.count for c in caption.clauses]))


def _share_colored(caption: Caption, asked: list[SceneObject]) -> float:
    shares = []
    for clause in caption.clauses:
        same = [o for o in asked if o.shape == clause.shape]
        shares.append(float(np.mean([clause.color in (None, o.color) for o in same])) if same else 0.0)
    return float(np.mean(shares))


def _smallest_gap(scene: Scene) -> float:
    """px between bounding squares, and to the frame's edge plus 4 px (an object at the edge is not yet cut)."""
    gaps = [FULL_GAP_PX]
    for i, a in enumerate(scene.objects):
        gaps.append(FULL_GAP_PX + min(a.cx, a.cy, FRAME_PX - a.cx, FRAME_PX - a.cy) - a.size / 2)
        gaps += [max(abs(a.cx - b.cx), abs(a.cy - b.cy)) - (a.size + b.size) / 2 for b in scene.objects[:i]]
    return min(gaps)


def _contrast(scene: Scene, item: SceneObject) -> float:
    """RGB distance between the object's colour and the background at its centre."""
    background = scene.background
    below = {"plain": 0.0, "gradient": item.cy / FRAME_PX}.get(background.kind, float(item.cy > background.horizon_px))
    behind = np.array(background.top) * (1 - below) + np.array(background.bottom) * below
    return float(np.linalg.norm(np.array(COLORS[item.color]) - behind))
