"""Why chains of a search left an image for a fresh drawing (`inference.search.Restart`), in words."""

from collections.abc import Mapping

RESTARTS = {
    "edits": "had been edited often enough",
    "quality": "had lost too much quality",
    "route": "failed where a fresh drawing promises more",
    "holds": "held all that is asked for",
}
"""What the image that was left did."""


def restarts_in_words(restarts: Mapping[str, int]) -> str:
    """restarts: how often, by reason."""
    return ", ".join(f"{number} whose image {RESTARTS[name]}" for name, number in sorted(restarts.items()))
