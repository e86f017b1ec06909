"""Take the images of editing triplets out of their dataset: the source is the bad image, the edited one the good."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
import tyro
from PIL import Image

from inference.likeness.likeness import LikenessConfig
from pipelines.model_costs import cpu_costs, likeness_costs
from pipelines.prompts.edit_files import EditReader
from pipelines.stage import StageCosts, Workers
from pipelines.stages.candidate_images import drawn_candidate
from pipelines.stages.makes_pairs import MakesPairs
from pipelines.stated_figures import Gpu
from schemas.configuration import added_field, execution_field
from schemas.errors import CorruptDataError
from schemas.images import decode_image
from schemas.records import Cost, Pair, PromptRow, Reason, Reflection, Rejection

SOURCE, EDITED = 0, 1  # candidate numbers
MAX_ASPECT = 200
"""Of width to height, or height to width: what Qwen2.5-VL's image processor takes is below it."""


@dataclass(frozen=True)
class ReadEditsConfig:
    """Which triplets are taken."""

    max_aspect_change: float = 0.02
    """The two images' ratios of width to height may differ by this share; the source is then resized to the edited
    image."""
    min_difference: float = 0.5
    """Mean absolute difference of the two images, in grey levels of 255; less is no edit."""
    likeness: Annotated[LikenessConfig | None, tyro.conf.Suppress] = added_field(None)
    """What the run measures likeness by (`--likeness`)."""
    workers: Workers = execution_field(Workers())


class ReadEdits(MakesPairs):
    """Editing triplets as pairs, without generation (ReflectionFlow §3.2); the instruction is the reflection."""

    name: ClassVar[str] = "read_edits"
    version: ClassVar[int] = 2
    makes_images: ClassVar[bool] = True

    @classmethod
    def costs(cls, config: ReadEditsConfig, gpu: Gpu | None) -> StageCosts:
        return likeness_costs(config.likeness, gpu) if config.likeness else cpu_costs(0.002)

    def load(self) -> None:
        super().load()
        self.reader = EditReader()

    def __call__(self, rows: Sequence[PromptRow]) -> list[PromptRow]:
        return [self._read(row) for row in rows]

    def _read(self, row: PromptRow) -> PromptRow:
        edit, row = row.edit, replace(row, cost=Cost())
        if edit is None:
            raise ValueError(f"{row.prompt.prompt_id} names no triplet: intake reads them")
        source_bytes, edited_bytes = self.reader.read_images(edit)
        try:
            source = decode_image(source_bytes, "the source image")
            edited = decode_image(edited_bytes, "the edited image")
        except CorruptDataError as error:
            return replace(row, rejection=Rejection(self.name, Reason.BROKEN_IMAGE, str(error)))
        longer, shorter = max(edited.shape[:2]), min(edited.shape[:2])
        if longer >= MAX_ASPECT * shorter:
            detail = f"{edited.shape[1]}x{edited.shape[0]} pixels: no VLM looks at images of {MAX_ASPECT}:1 or beyond"
            return replace(row, rejection=Rejection(self.name, Reason.EXTREME_ASPECT, detail))
        if source.shape != edited.shape:
            sizes = [f"{image.shape[1]}x{image.shape[0]}" for image in (source, edited)]
            ratio = (source.shape[1] / source.shape[0]) / (edited.shape[1] / edited.shape[0])
            if abs(ratio - 1) > self.config.max_aspect_change:
                return replace(row, rejection=Rejection(self.name, Reason.OTHER_SIZES, " and ".join(sizes)))
            size = (edited.shape[1], edited.shape[0])
            source = np.asarray(Image.fromarray(source).resize(size, Image.Resampling.LANCZOS))
        difference = float(np.abs(source.astype(np.int16) - edited).mean())
        if difference < self.config.min_difference:
            detail = f"mean difference {difference:.2f} of 255"
            return replace(row, rejection=Rejection(self.name, Reason.EQUAL_IMAGES, detail))
        drawn = [(SOURCE, source), (EDITED, edited)]
        candidates = tuple(drawn_candidate(index, 0, row.prompt.text, 0, image) for index, image in drawn)
        reflection = Reflection(edit.instruction, annotator="dataset")
        row = replace(row, candidates=candidates)
        return replace(row, pairs=self.likened(row, [Pair(0, EDITED, SOURCE, self.name, reflection)]))
