"""An editing pipeline of diffusers as the corrector: the flawed image and an instruction in, an image out. No training.

An edited image has the flawed image's own size. A class draws in multiples of some pixels, and some only from 64 px a
side on, or about a megapixel (LongCat): there the flawed image is brought to what the class can draw, and what it drew
back to the flawed image's size.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from inference.editors.editor_classes import EDITOR_CLASSES, EDITORS_ON_THE_HUB, EditorClass, EditorName
from inference.editors.instruction import fit_longcat, instruction_of, load_template
from inference.flux.generator import KEPT_TEXT_BYTES, draw_in_batches
from inference.generators.call_arguments import call_arguments, call_parameters
from inference.generators.pipeline import open_pipeline
from inference.generators.pipeline_classes import planned_class
from inference.interfaces import Generator
from schemas.configuration import execution_field, model_field, resumable_field, template_field
from schemas.errors import InputError

log = logging.getLogger(__name__)

_LOADING = ("lora", "dtype", "quantization", "compile", "offload", "device")
_DRAWING_OF_ANY = ("steps", "text_length")
_DRAWING = (*_DRAWING_OF_ANY, "guidance", "true_cfg_scale", "negative_prompt", "more")


@dataclass(frozen=True)
class EditorCorrectorConfig:
    """Which editor corrects, and how. What is not said is the class's own; device and dtype are the generator's."""

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
    steps: int = 0
    """Denoising steps; 0: the class's own."""
    guidance: float | None = None
    """`guidance_scale`; None: the class's own."""
    true_cfg_scale: float | None = None
    """True classifier-free guidance, with a negative prompt: two passes a step; None: the class's own."""
    negative_prompt: str = ""
    """What guidance leads away from; empty for none, or a blank where the class needs one to be guided at all."""
    text_length: int = 0
    """Tokens of an instruction (`max_sequence_length`); 0: the class's own."""
    more: str = ""
    """Further arguments of the class's call, as a JSON object."""
    batch_size: int = resumable_field(1)
    """Images of one size a forward pass; classes that cannot edit several at once do one at a time whatever this is."""
    dtype: Literal["", "float32", "bfloat16", "float16"] = ""
    """Of all weights and products; empty: the generator's."""
    quantization: Literal["none", "fp8", "int8", "int4"] = "none"
    """How the denoiser's weights are kept: fp8 is cast to `dtype` layer by layer; int8 and int4, the large text
    encoder's too, through bitsandbytes on a CUDA device. Changes images slightly."""
    compile: Literal["none", "blocks"] = "none"
    """blocks: one graph for each kind of block and each size. Changes images by rounding."""
    offload: Literal["none", "model", "sequential"] = execution_field("none")
    """What waits in main memory while it is not used: whole models, or single layers. Changes no image."""
    device: str = execution_field("")
    """Where it computes: cpu, cuda, cuda:1; empty: where the generator does."""

    def __post_init__(self) -> None:
        if self.pipeline not in get_args(EditorName):
            raise InputError(
                f"no editing class {self.pipeline!r} is known", field="pipeline", expected=", ".join(EDITOR_CLASSES)
            )
        if self.batch_size < 1 or self.steps < 0:
            raise InputError(
                f"batch_size {self.batch_size}, steps {self.steps}", expected="at least 1, and at least 0"
            )

    @property
    def class_name(self) -> str:
        """The pipeline's class. InputError for a folder whose class is no editor's; empty for a model that is not here
        and not known."""
        name = found_class(self.model) if self.model else ""
        chosen = self.pipeline or name
        if name and chosen not in EDITOR_CLASSES:
            raise InputError(f"{self.model} is a {name}, which edits no image", field="model", expected=_editors())
        if self.pipeline and name not in ("", self.pipeline, *EDITOR_CLASSES[self.pipeline].opens):
            raise InputError(
                f"{self.model} is a {name}, of which no {self.pipeline} can be made",
                field="pipeline",
                expected=" or ".join(["nothing", *(one for one, kind in EDITOR_CLASSES.items() if name in kind.opens)]),
            )
        if chosen and chosen != name and EDITOR_CLASSES[chosen].distilled_only and not self._is_distilled:
            raise InputError(
                f"{self.model} is not distilled: it needs guidance, and a {chosen} has none", field="pipeline"
            )
        return chosen

    def passes(self, generator_passes: int) -> int:
        """Denoiser passes of an image: the steps, or twice that with guidance of a kind that takes a second pass.
        generator_passes: taken for a model of which nothing is known before it is loaded."""
        kind = EDITOR_CLASSES.get(self.class_name)
        if kind is None:
            return self.steps or generator_passes
        is_guided = kind.is_guided(self.guidance, self.true_cfg_scale, self._is_distilled)
        return (self.steps or kind.drawing.steps) * (2 if is_guided else 1)

    @property
    def _is_distilled(self) -> bool:
        """Whether the model does without guidance, by its folder or as it is known; a model of which neither says is
        taken at its user's word."""
        found = planned_class(self.model) if self.model else None
        return found is None or found[1]

    def beside(self, generator: Any) -> EditorCorrectorConfig:
        """The same with what it takes from the generator's configuration: of a model of its own device and dtype, else
        the model and all that says how it is loaded and draws. InputError for a generator that edits nothing, and for
        what would have to be another way for the editor of one loaded model."""
        device, dtype = getattr(generator, "device", "cuda"), getattr(generator, "dtype", None)
        if self.model:
            return replace(
                self, device=self.device or (device if dtype else "cuda"), dtype=self.dtype or dtype or "bfloat16"
            )
        if not isinstance(generator, DiffusersGeneratorConfig):
            kind = type(generator).__name__.removesuffix("GeneratorConfig").lower()
            raise InputError(
                f"no editor is named, and a generator of kind {kind!r} edits no image",
                field="corrector.editor.model",
                expected=_editors(),
            )
        own, theirs = EditorCorrectorConfig(), {name: getattr(generator, name) for name in _LOADING}
        for name, value in theirs.items():
            if getattr(self, name) not in (getattr(own, name), value):
                raise InputError(
                    f"{name} {getattr(self, name)!r}, where the generator that edits has {value!r}",
                    field=f"corrector.editor.{name}",
                    expected="nothing, or a model of the editor's own",
                )
        shared = replace(self, model=generator.model, **theirs)
        names = _DRAWING if shared.class_name in ("", found_class(generator.model)) else _DRAWING_OF_ANY
        drawing = {name: getattr(generator, name) for name in names if getattr(self, name) == getattr(own, name)}
        return replace(shared, **drawing)

    def open(self, generator: Generator) -> EditorCorrector:
        """Load it, or share what the generator has loaded. MissingWeightsError, InputError."""
        config = self.beside(getattr(generator, "config", None))
        loaded = generator.config if isinstance(generator, DiffusersGenerator) else None
        same = loaded and all(getattr(config, name) == getattr(loaded, name) for name in ("model", *_LOADING))
        return EditorCorrector(config, generator.pipeline if same else open_pipeline(config))


class EditorCorrector:
    """Edits images. One depends on (flawed image, instruction, seed, configuration) alone."""

    def __init__(self, config: EditorCorrectorConfig, pipeline: Any) -> None:
        """pipeline: loaded; the generator's, or the editor's own. InputError for a class that does not edit, and for
        settings that it lacks."""
        self.config, self.template = config, load_template(config.template)
        name = config.class_name or type(pipeline).__name__
        if name not in EDITOR_CLASSES:
            raise InputError(f"{name} edits no image that is known of", field="model", expected=_editors())
        self.pipeline = _as_class(pipeline, name)
        self.kind: EditorClass = EDITOR_CLASSES[name]
        self._takes = call_parameters(type(self.pipeline))
        self._arguments = call_arguments(self.pipeline, config)
        self._texts: dict[str, dict[str, Any]] = {}
        self._kept_bytes = 0
        if self.kind.drawing.alone and config.batch_size > 1:
            log.warning("%s edits one image at a time: %s", name, self.kind.drawing.alone)

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
        """What `correct` gives, each as soon as its batch of images of one size is drawn."""
        if not len(images) == len(prompts) == len(reflections) == len(seeds):
            raise InputError(
                f"{len(images)} images, {len(prompts)} prompts, {len(reflections)} reflections, {len(seeds)} seeds",
                expected="one of each",
            )
        told = [instruction_of(self.template, p, r) for p, r in zip(prompts, reflections, strict=True)]

        def draw(batch: list[int]) -> list[np.ndarray]:
            return self._draw([images[i] for i in batch], [told[i] for i in batch], [seeds[i] for i in batch])

        batch_size = 1 if self.kind.drawing.alone else self.config.batch_size
        yield from draw_in_batches([image.shape[:2] for image in images], batch_size, draw)

    def _draw(self, images: Sequence[np.ndarray], told: Sequence[str], seeds: Sequence[int]) -> list[np.ndarray]:
        """images: of one size."""
        import torch
        from PIL import Image

        height, width = images[0].shape[:2]
        shown, sizes = [Image.fromarray(image) for image in images], {}
        if "height" in self._takes:
            sizes["width"], sizes["height"] = self._drawn_size(width, height)
            shown = [_resized(image, sizes["width"], sizes["height"]) for image in shown]
        if "max_area" in self._takes:
            sizes |= {"max_area": sizes["width"] * sizes["height"], "_auto_resize": False}
        arguments = dict(self._arguments)
        if "negative_prompt" in arguments and len(images) > 1:
            arguments["negative_prompt"] = [arguments["negative_prompt"]] * len(images)
        with torch.no_grad():
            drawn = self.pipeline(
                image=shown[0] if self.kind.drawing.alone else shown,
                **self._text_arguments(told),
                **sizes,
                **arguments,
                # Noise is drawn on the CPU, one generator an image: the same on every device and in every batch.
                generator=[torch.Generator("cpu").manual_seed(seed % 2**63) for seed in seeds],
                output_type="np",
            ).images
        arrays = [Image.fromarray((image * 255).round().astype(np.uint8)) for image in drawn]
        return [np.asarray(_resized(image, width, height)) for image in arrays]

    def _drawn_size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height as the class can draw them, in the image's proportions up to one multiple."""
        multiple, least = 2 * self.pipeline.vae_scale_factor, self.kind.least_px
        larger = max(1.0, least / min(width, height))
        least = -(-least // multiple) * multiple
        width, height = (max(least, int(side * larger) // multiple * multiple) for side in (width, height))
        return width, height

    def _text_arguments(self, told: Sequence[str]) -> dict[str, Any]:
        """The instructions as the call takes them; as states that are kept, where they are read without the image."""
        import torch

        names = self.kind.drawing.text_states
        if not names:
            long = type(self.pipeline).__name__ == "LongCatImageEditPipeline"
            return {"prompt": [fit_longcat(self.pipeline, text) if long else text for text in told]}
        states = [self._text_states(text) for text in told]
        return {name: torch.cat([one[name] for one in states]) for name in names if name}

    def _text_states(self, text: str) -> dict[str, Any]:
        if text not in self._texts:
            length = {name: self._arguments[name] for name in ("max_sequence_length",) if name in self._arguments}
            found = self.pipeline.encode_prompt(prompt=[text], device=self.pipeline._execution_device, **length)
            states = {name: one for name, one in zip(self.kind.drawing.text_states, found, strict=True) if name}
            size = sum(one.nbytes for one in states.values())
            if self._kept_bytes + size > KEPT_TEXT_BYTES:
                self._texts.clear()
                self._kept_bytes = 0
            self._texts[text] = states
            self._kept_bytes += size
        return self._texts[text]


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


def _editors() -> str:
    return f"an editor: {', '.join(EDITORS_ON_THE_HUB)}, or a folder of class {', '.join(EDITOR_CLASSES)}"


def found_class(model: str) -> str:
    """The class that a model's folder names, or that of its hub id; empty where neither says. InputError."""
    found = planned_class(model)
    return found[0] if found else EDITORS_ON_THE_HUB.get(model, "")
