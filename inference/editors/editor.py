"""An editing pipeline of diffusers as the corrector: the flawed image and an instruction in, an image out. No training.

An edited image has the flawed image's own size. Where a class draws in multiples of some pixels, from 64 px a side on
(FLUX.2), or about a megapixel whatever it is shown (LongCat), the flawed image is brought to what it can draw, and what
it drew back to the flawed image's size.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from inference.drawn_pixels import pixels_of
from inference.editors.editor_classes import EDITOR_CLASSES, EDITORS_ON_THE_HUB, EditorClass, EditorName
from inference.editors.instruction import fit_longcat, instruction_of, load_template
from inference.flux.generator import draw_in_batches
from inference.generators.call_arguments import call_arguments, call_parameters
from inference.generators.diffusers_generator import DiffusersGenerator, DiffusersGeneratorConfig, size_multiple
from inference.generators.pipeline import open_pipeline, say_once
from inference.generators.pipeline_classes import planned_pipeline
from inference.generators.text_states import TextStates, batched
from inference.interfaces import Generator
from inference.vlm.endpoint import Journal
from schemas.configuration import added_field, execution_field, model_field, resumable_field, template_field
from schemas.errors import InputError

log = logging.getLogger(__name__)

_LOADING = ("lora", "dtype", "quantization", "compile", "offload", "device")
_DRAWING_OF_ANY_CLASS = ("steps", "text_length")
_DRAWING = (*_DRAWING_OF_ANY_CLASS, "guidance", "true_cfg_scale", "negative_prompt", "more")


@dataclass(frozen=True)
class EditorCorrectorConfig:
    """Which editor corrects, and how. What is not said is the class's own; device and type are the generator's."""

    model: str = model_field("")
    """Folder or hub id of an editing pipeline (Qwen/Qwen-Image-Edit-2511, black-forest-labs/FLUX.1-Kontext-dev, ...);
    empty: the search's own generator edits too, loaded once, and draws as it is told to there (FLUX.2-klein)."""
    pipeline: EditorName = ""
    """The class, where a folder serves two: Flux2KleinKVPipeline computes the flawed image's keys and values once for
    all steps. Empty: the one that the folder names."""
    template: str = template_field("edit")
    """What the editor is told: edit (the reflection as the instruction), edit_with_prompt, or a text file with
    {reflection}, and {prompt} if it is wanted."""
    lora: str = model_field("")
    """Folder of a LoRA on top; empty for none."""
    lora_strength: float = added_field(1.0)
    """What `lora` is multiplied by."""
    steps: int = 0
    """Denoising steps; 0: the class's own."""
    guidance: float | None = None
    """`guidance_scale`; None: the class's own."""
    true_cfg_scale: float | None = None
    """True classifier-free guidance: above 1 it is two passes a step and brings its negative prompt along; None: the
    class's own (Qwen-Image-Edit: 4)."""
    negative_prompt: str = ""
    """What guidance leads away from; empty: a space where true guidance needs one, else the class's own."""
    text_length: int = 0
    """Tokens that an instruction is padded to or cut at, `max_sequence_length`; 0: the class's own."""
    more: str = ""
    """Further arguments of the class's call, as a JSON object."""
    batch_size: int = resumable_field(1)
    """Images of one size a forward pass; classes that cannot edit several at once do one at a time whatever this is."""
    dtype: Literal["", "float32", "bfloat16", "float16"] = ""
    """Of all weights and products; empty: the generator's."""
    quantization: Literal["none", "fp8", "int8", "int4"] = "none"
    """How weights are kept: fp8, the denoiser's, cast to `dtype` layer by layer; int8 and int4 also the text encoder's,
    through bitsandbytes on a CUDA device. Changes images slightly."""
    compile: Literal["none", "blocks"] = "none"
    """blocks: one graph for each kind of block and each size. Changes images by rounding."""
    offload: Literal["none", "model", "sequential"] = execution_field("none")
    """What waits in main memory while it is not used: whole models, or single layers. Changes no image."""
    device: str = execution_field("")
    """Where it computes: cpu, cuda, cuda:1; empty: where the generator does."""

    def __post_init__(self) -> None:
        if self.pipeline not in get_args(EditorName):
            raise InputError(
                f"no editing class {self.pipeline!r} is known",
                field="corrector.editor.pipeline",
                expected=", ".join(EDITOR_CLASSES),
            )
        if self.batch_size < 1 or self.steps < 0:
            raise InputError(
                f"batch_size {self.batch_size}, steps {self.steps}",
                field="corrector.editor",
                expected="at least 1, and at least 0",
            )

    @property
    def class_name(self) -> str:
        """The pipeline's class; empty for a model that is neither here nor known. InputError for a folder of which no
        editor can be made."""
        named = _named_class(self.model)
        chosen = self.pipeline or named
        if named and not self.pipeline and named not in EDITOR_CLASSES:
            raise InputError(
                f"{self.model} is a {named}, which edits no image", field="corrector.editor.model", expected=_editors()
            )
        if named and chosen != named and named not in EDITOR_CLASSES[chosen].opens:
            raise InputError(
                f"{self.model} is a {named}, of which no {chosen} can be made",
                field="corrector.editor.pipeline",
                expected=" or ".join(
                    ["nothing", *(name for name, kind in EDITOR_CLASSES.items() if named in kind.opens)]
                ),
            )
        if named and chosen != named and EDITOR_CLASSES[chosen].distilled_only and not self._is_distilled:
            raise InputError(
                f"{self.model} is not distilled to do without guidance, and a {chosen} has none",
                field="corrector.editor.pipeline",
                expected="nothing, or a distilled model",
            )
        return chosen

    @property
    def is_guided(self) -> bool:
        """Whether a step is two passes. False for a class that is not known."""
        kind = EDITOR_CLASSES.get(self.class_name)
        return kind is not None and kind.is_guided(self.guidance, self.true_cfg_scale, self._is_distilled)

    @property
    def _is_distilled(self) -> bool:
        return planned_pipeline(self.model).is_distilled

    def passes(self, generator_passes: int) -> int:
        """Denoiser passes of an image. generator_passes: taken for a model of which nothing is known before it is
        loaded."""
        kind = EDITOR_CLASSES.get(self.class_name)
        if kind is None:
            return self.steps or generator_passes
        return (self.steps or kind.drawing.steps) * (2 if self.is_guided else 1)

    def shares(self, generator: Any) -> bool:
        """Whether a generator of this configuration has loaded what this, filled in by `beside`, needs."""
        return isinstance(generator, DiffusersGeneratorConfig) and all(
            getattr(self, name) == getattr(generator, name) for name in ("model", *_LOADING)
        )

    def beside(self, generator: Any) -> EditorCorrectorConfig:
        """The same with what it takes from a generator's configuration: device and type of its weights, or, without a
        model of its own, model and all that says how it is loaded and draws. InputError for a generator that edits
        nothing, and for what one loaded model cannot be at once."""
        if self.model:
            dtype, device = getattr(generator, "dtype", None), getattr(generator, "device", "cuda")
            return replace(
                self, dtype=self.dtype or dtype or "bfloat16", device=self.device or (device if dtype else "cuda")
            )
        if not isinstance(generator, DiffusersGeneratorConfig):
            raise InputError(
                "no editor is named, and a generator of this kind edits no image",
                field="corrector.editor.model",
                expected=f"{_editors()}; or a generator of kind diffusers whose class edits too",
            )
        plain, theirs = EditorCorrectorConfig(), {name: getattr(generator, name) for name in _LOADING}
        for name, value in theirs.items():
            if getattr(self, name) not in (getattr(plain, name), value):
                raise InputError(
                    f"{getattr(self, name)!r}, where the generator that edits is loaded with {value!r}",
                    field=f"corrector.editor.{name}",
                    expected="nothing, or a model of the editor's own",
                )
        shared = replace(self, model=generator.model, **theirs)
        same_class = shared.class_name in ("", _named_class(generator.model))
        names = _DRAWING if same_class else _DRAWING_OF_ANY_CLASS
        return replace(
            shared,
            **{name: getattr(generator, name) for name in names if getattr(self, name) == getattr(plain, name)},
        )

    def open(self, generator: Generator | None, journal: Journal | None = None) -> EditorCorrector:
        """Load it, or share what the generator has loaded. generator: None where there is none, for a model of its own.
        MissingWeightsError, InputError."""
        del journal  # it works in this process: asked again, it draws the same
        loaded = getattr(generator, "config", None)
        config = self.beside(loaded)
        if isinstance(generator, DiffusersGenerator) and config.shares(loaded):
            return EditorCorrector(config, generator.pipeline)
        return EditorCorrector(config, open_pipeline(config))


class EditorCorrector:
    """Edits images. One depends on (flawed image, instruction, seed, configuration) alone."""

    def __init__(self, config: EditorCorrectorConfig, pipeline: Any) -> None:
        """pipeline: loaded; the generator's, or the editor's own. InputError for a class that does not edit, and for a
        setting that it lacks."""
        self.config, self.template = config, load_template(config.template)
        name = config.class_name or type(pipeline).__name__
        if name not in EDITOR_CLASSES:
            raise InputError(
                f"{name} is no class that edits images",
                field="corrector.editor.model",
                expected=", ".join(EDITOR_CLASSES),
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
        self._texts = TextStates(self.pipeline, known, self._arguments, config.is_guided) if known.text_states else None

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


def _named_class(model: str) -> str:
    """The class that a model's folder names, or that of its hub id; empty where neither says. InputError."""
    return planned_pipeline(model).class_name or EDITORS_ON_THE_HUB.get(model, "") if model else ""


def _editors() -> str:
    return f"an editor such as {', '.join(EDITORS_ON_THE_HUB)}"
