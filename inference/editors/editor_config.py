"""An editing pipeline of diffusers as the corrector, by configuration: its own model, or the search's generator."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from inference.editors.editor_classes import EDITOR_CLASSES, EDITORS_ON_THE_HUB, EditorName
from inference.generators.diffusers_generator import DiffusersGenerator, DiffusersGeneratorConfig
from inference.generators.pipeline_classes import planned_pipeline
from inference.interfaces import Generator
from inference.vlm.endpoint import Journal
from schemas.configuration import execution_field, model_field, resumable_field, template_field
from schemas.errors import InputError

if TYPE_CHECKING:
    from inference.editors.editor_corrector import EditorCorrector

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

    def open(self, generator: Generator, journal: Journal | None = None) -> EditorCorrector:
        """Load it, or share what the generator has loaded. MissingWeightsError, InputError."""
        from inference.editors.editor_corrector import EditorCorrector
        from inference.generators.pipeline import open_pipeline

        del journal  # it works in this process: asked again, it draws the same
        loaded = getattr(generator, "config", None)
        config = self.beside(loaded)
        is_shared = isinstance(generator, DiffusersGenerator) and config.shares(loaded)
        return EditorCorrector(config, generator.pipeline if is_shared else open_pipeline(config))


def _named_class(model: str) -> str:
    """The class that a model's folder names, or that of its hub id; empty where neither says. InputError."""
    return planned_pipeline(model).class_name or EDITORS_ON_THE_HUB.get(model, "") if model else ""


def _editors() -> str:
    return f"an editor such as {', '.join(EDITORS_ON_THE_HUB)}"
