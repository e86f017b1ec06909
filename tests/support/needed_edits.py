"""What an image needs, said by the objects that a judge saw in it."""

from benchmarks.corrector.wrong_images import edits_needed
from inference.prompt_grammar import parse_prompt
from schemas.records import DetectedObject


def seen(*objects):
    """Objects side by side, each given as (color, shape)."""
    return [
        DetectedObject(shape, 0.9, (4.0 * i, 4.0, 4.0 * i + 8, 12.0), c, b"") for i, (c, shape) in enumerate(objects)
    ]


def needed(text, *objects):
    """Edits that make the image show the prompt."""
    return edits_needed(parse_prompt(text), seen(*objects), 0.5)
