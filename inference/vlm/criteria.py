"""What a prompted verifier is asked to score, by GenEval tag, and what each criterion asks.

The criteria and their ends of the scale are those of ReflectionFlow, appendix D.1; the words are ours, and so are the
criteria of prompts that have no tag.
"""

from __future__ import annotations

_CONTRAST = (
    "how well the object's colours stand apart from those behind and around it. 0: so alike that it can hardly be told "
    "from the background; 10: it is seen at once."
)

RUBRICS: dict[str, dict[str, str]] = {
    "single_object": {
        "object_completeness": "whether the object is whole and clearly drawn, with no part missing, melted or "
        "doubled. 0: fragments; 10: intact in every detail.",
        "detectability": "how clearly the object stands out from the background. 0: hidden in it; 10: noticed at first "
        "glance.",
        "occlusion_handling": "whether anything covers the object that should not; what covers it naturally must leave "
        "it recognisable. 0: its essential parts are hidden; 10: nothing hides it, or only in a natural way.",
    },
    "two_object": {
        "separation_clarity": "how well the two objects are parted in space, each with an outline of its own. 0: one "
        "lies over the other or they merge; 10: apart, with sharp outlines.",
        "individual_completeness": "whether each of the two objects is there and whole for itself. 0: neither is; 5: "
        "one of them is; 10: both are.",
        "relationship_accuracy": "whether the two objects' sizes go together. 0: absurd proportions; 10: as in the "
        "real world.",
    },
    "counting": {
        "count_accuracy": "whether there are exactly as many objects as asked for: count them one by one. 0: another "
        "number; 10: the exact number.",
        "object_uniformity": "whether the objects of one kind are alike in shape, size and colour. 0: hardly two are; "
        "10: all are.",
        "spatial_legibility": "whether the objects are spread so that each can be seen and counted. 0: piled upon each "
        "other; 10: every one in plain sight.",
    },
    "colors": {
        "color_fidelity": "whether the object has the very colour that was asked for. 0: another one; 10: that one, "
        "all over.",
        "contrast_effectiveness": _CONTRAST,
        "multi_object_consistency": "whether objects of one kind share one colour. 0: each has another; 10: all have "
        "the same, or there is only one.",
    },
    "position": {
        "position_accuracy": "whether the objects stand to each other as the request says (left, right, above, below, "
        "as the viewer sees it). 0: otherwise, or one is missing; 10: just so.",
        "occlusion_management": "whether their places can be made out although one may cover the other. 0: covered "
        "so far that nobody can tell; 10: plain to see.",
        "perspective_consistency": "whether perspective and depth make sense. 0: they contradict each other; 10: "
        "entirely plausible.",
    },
    "color_attr": {
        "attribute_binding": "whether each colour is on the object that it was asked for, and on no other. 0: swapped, "
        "leaking or missing colours; 10: every object has its own.",
        "contrast_effectiveness": _CONTRAST,
        "material_consistency": "whether the colours suit the materials that the objects are drawn in. 0: they clash; "
        "10: in full harmony.",
    },
}

ANY_RUBRIC: dict[str, str] = {
    "object_completeness": "whether everything that the request names is there, in the right number, whole and clearly "
    "drawn. 0: the main subject is missing; 10: nothing is missing or malformed.",
    "attribute_binding": "whether each colour, material, shape or other attribute is on what it was asked for. 0: on "
    "the wrong things, or absent; 10: all of them are right.",
    "relationship_accuracy": "whether places, actions and proportions between the subjects are as the request says. 0: "
    "otherwise; 10: just so, or the request names none.",
}
"""Of prompts that have no tag."""

CRITERIA: dict[str, tuple[str, ...]] = {tag: tuple(rubric) for tag, rubric in RUBRICS.items()}
ANY_PROMPT = tuple(ANY_RUBRIC)
OVERALL = "overall_score"
