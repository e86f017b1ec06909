"""What a prompted verifier is asked to score, by GenEval tag (ReflectionFlow, appendix D.1)."""

CRITERIA: dict[str, tuple[str, str, str]] = {
    "single_object": ("object_completeness", "detectability", "occlusion_handling"),
    "two_object": ("separation_clarity", "individual_completeness", "relationship_accuracy"),
    "counting": ("count_accuracy", "object_uniformity", "spatial_legibility"),
    "colors": ("color_fidelity", "contrast_effectiveness", "multi_object_consistency"),
    "position": ("position_accuracy", "occlusion_management", "perspective_consistency"),
    "color_attr": ("attribute_binding", "contrast_effectiveness", "material_consistency"),
}
OVERALL = "overall_score"
ANY_PROMPT = ("object_completeness", "attribute_binding", "relationship_accuracy")  # of prompts that have no tag
