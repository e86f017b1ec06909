"""Draws again by an editing pipeline: the flawed image and an instruction in, an image out. No training.

An edited image has the flawed image's own size. Where a class draws in multiples of some pixels, from 64 px a side on
(FLUX.2), or about a megapixel whatever it is shown (LongCat), the flawed image is brought to what it can draw, and what
it drew back to the flawed image's size.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from inference.drawn_pixels import pixels_of
from inference.editors.editor_classes import EDITOR_CLASSES, EditorClass
from inference.editors.editor_config import EditorCorrectorConfig
from inference.editors.instruction import fit_longcat, instruction_of, load_template
from inference.flux.generator import draw_in_batches
from inference.generators.call_arguments import call_arguments, call_parameters
from inference.generators.diffusers_generator import size_multiple
from inference.generators.pipeline import say_once
from inference.generators.text_states import TextStates, batched
from schemas.errors import InputError

log = logging.getLogger(__name__)


class EditorCorrector:
    """Edits images. One depends on (flawed image, instruction, seed, configuration) alone."""

    def __init__(self, config: EditorCorrectorConfig, pipeline: Any) -> None:
        """pipeline: loaded; the generator's, or the editor's own. InputError for a class that does not edit, and for a
        setting that it lacks."""
        self.config, self.template = config, load_template(config.template)
        name = config.class_name or type(pipeline).__name__
        if name not in EDITOR_CLASSES:
            raise InputError(
                f"{name} is no class that edits images", field="corrector.editor.model", expected=", ".join(EDITOR_CLASSES)
            )
        self.kind: EditorClass = EDITOR_CLASSES[name]
        self.pipeline = _as_class(pipeline, name)
        say_once(self.pipeline)
        self._takes = call_parameters(type(self.pipeline))
        self._arguments = call_arguments(self.pipeline, config)
        known = self.kind.drawing
        self.batch_size = 1 if known.alone else config.batch_size
        if self.batch_size < config.batch_size:
            log.warning("%s edits one image at a time: %s", name, known.alone)
        self._multiple = size_multiple(self.pipeline, known)
        self._texts = (
            TextStates(self.pipeline, known, self._arguments, config.is_guided) if known.text_states else None
        )

    def correct(
        self,
        images: Sequence[np.ndarray],
        prompts: Sequence[str],
        reflections: Sequence[str],
        seeds: Sequence[int],
    ) -> list[np.ndarray]:
        """images uint8 (H, W, 3), the flawed ones -> as many of the same sizes."""
        return list(self.draw(images, prompts, reflections, seeds))

    def draw(
        self,
        images: Sequence[np.ndarray],
        prompts: Sequence[str],
        reflections: Sequence[str],
        seeds: Sequence[int],
    ) -> Iterator[np.ndarray]:
        """What `correct` gives, each as soon as its batch of images of one size is drawn. CorruptDataError for images
        that are no numbers."""
        if not len(images) == len(prompts) == len(reflections) == len(seeds):
            raise InputError(
                f"{len(images)} images, {len(prompts)} prompts, {len(reflections)} reflections, {len(seeds)} seeds",
                expected="one of each",
            )
        told = [instruction_of(self.template, p, r) for p, r in zip(prompts, reflections, strict=True)]

        def draw(batch: list[int]) -> list[np.ndarray]:
            return self._draw([images[i] for i in batch], [told[i] for i in batch], [seeds[i] for i in batch])

        yield from draw_in_batches([image.shape for image in images], self.batch_size, draw)

    def _draw(self, images: Sequence[np.ndarray], told: Sequence[str], seeds: Sequence[int]) -> list[np.ndarray]:
        """images: of one size."""
        import torch
        from PIL import Image

        height, width = images[0].shape[:2]
        given = dict(self._arguments)
        shown = [Image.fromarray(image) for image in images]
        if "height" in self._takes:
            given["width"], given["height"] = self._drawn_size(width, height)
            shown = [_resized(image, given["width"], given["height"]) for image in shown]
        if "max_area" in self._takes:  # Kontext's class would draw at one of its own sizes
            given |= {"max_area": given["width"] * given["height"], "_auto_resize": False}
        if self._texts is not None:
            if "negative_prompt" in self._takes:  # its states are among those of the texts
                given["negative_prompt"] = None
            given |= batched([self._texts.of(text) for text in told])
        else:  # it reads the instruction with the image, one at a time
            is_longcat = type(self.pipeline).__name__ == "LongCatImageEditPipeline"
            given["prompt"] = fit_longcat(self.pipeline, told[0]) if is_longcat else told[0]
        output = self.pipeline(
            **given,
            image=shown[0] if self.kind.drawing.alone else shown,
            # Noise is drawn on the CPU, one generator an image: the same on every device and in every batch.
            generator=[torch.Generator("cpu").manual_seed(seed % 2**63) for seed in seeds],
            output_type="np",
        )
        drawn = [Image.fromarray(pixels) for pixels in pixels_of(np.asarray(output.images))]
        return [np.array(_resized(image, width, height)) for image in drawn]

    def _drawn_size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height as the class can draw them: the image's, a multiple smaller at most, but for images that are
        too small for it."""
        multiple = self._multiple
        least = -(-self.kind.least_px // multiple) * multiple
        scale = max(1.0, least / min(width, height))
        drawn = [max(least, int(side * scale) // multiple * multiple) for side in (width, height)]
        return drawn[0], drawn[1]


def _resized(image: Any, width: int, height: int) -> Any:
    from PIL import Image

    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.LANCZOS)


def _as_class(pipeline: Any, name: str) -> Any:
    """The pipeline, or one of class `name` over its loaded components."""
    import diffusers

    if type(pipeline).__name__ == name:
        return pipeline
    made = getattr(diffusers, name)(**pipeline.components)
    made.set_progress_bar_config(disable=True)
    return made
