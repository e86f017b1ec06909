"""Draw several images of each prompt."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from inference.generator import GeneratorConfig
from pipelines.model_costs import generator_costs
from pipelines.stage import Item, Stage, StageCosts, Workers
from pipelines.stages.candidate_images import drawn_candidate
from pipelines.stated_figures import Gpu
from schemas.configuration import execution_field, stable_seed
from schemas.errors import InputError
from schemas.records import Cost, PromptRow


@dataclass(frozen=True)
class GenerateCandidatesConfig:
    """How many images of each prompt, and by what. Of a prompt that was condensed, the first half is drawn from its own
    words and the second half from the condensed ones."""

    candidates_per_prompt: int = 10
    """Images of each prompt."""
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    workers: Workers = execution_field(Workers())

    def __post_init__(self) -> None:
        if self.candidates_per_prompt < 2:
            raise InputError(
                f"{self.candidates_per_prompt} candidates make no pair",
                field="generate.candidates_per_prompt",
                expected="at least 2",
            )


class GenerateCandidates(Stage):
    """The rollout (ReflectionFlow §3.2: ten candidates a prompt). Noise is seeded by (run seed, prompt id, index); all
    candidates of a prompt are of one size, which its id and the run's seed choose."""

    name: ClassVar[str] = "generate_candidates"
    version: ClassVar[int] = 1
    makes_images: ClassVar[bool] = True
    item: ClassVar[Item] = "images"

    def __init__(self, config: GenerateCandidatesConfig, seed: int, barrier: Mapping[str, Any] | None = None) -> None:
        super().__init__(config, seed)
        self.batch_size = config.generator.batch_size

    def load(self) -> None:
        self.generator = self.config.generator.with_batch_size(self.batch_size).open(self.journal)
        self.generator.warm_up(self.config.generator.all_sizes)

    def shrink(self) -> bool:
        """Halve the generator's micro-batch, after running out of memory."""
        if self.batch_size == 1:
            return False
        self.batch_size //= 2
        self.load()
        return True

    @classmethod
    def is_client(cls, config: GenerateCandidatesConfig) -> bool:
        return config.generator.is_elsewhere

    @classmethod
    def costs(cls, config: GenerateCandidatesConfig, gpu: Gpu | None) -> StageCosts:
        return generator_costs(config.generator, gpu)

    def __call__(self, rows: Sequence[PromptRow]) -> list[PromptRow]:
        count = self.config.candidates_per_prompt
        texts = [text for row in rows for text in self._texts(row)]
        seeds = [stable_seed(self.seed, row.prompt.prompt_id, i) for row in rows for i in range(count)]
        sizes = [self.config.generator.size_of(self.seed, row.prompt.prompt_id) for row in rows for _ in range(count)]
        steps = self.config.generator.num_steps
        # A PNG of 1024 px takes a core for a third of a second; the model draws on meanwhile.
        with ThreadPoolExecutor(1) as encoder:
            images = self.generator.draw(texts, seeds, [size for size in sizes if size] or None)
            pending = [
                encoder.submit(drawn_candidate, flat % count, seeds[flat], texts[flat], steps, image)
                for flat, image in enumerate(images)
            ]
            candidates = [future.result() for future in pending]
        cost = Cost(generations=count, denoiser_passes=count * self.config.generator.denoiser_passes_per_image)
        return [
            replace(row, candidates=tuple(candidates[number * count : (number + 1) * count]), cost=cost)
            for number, row in enumerate(rows)
        ]

    def _texts(self, row: PromptRow) -> list[str]:
        count = self.config.candidates_per_prompt
        short = 0 if row.condensed is None else count // 2
        return [row.prompt.text] * (count - short) + [row.condensed or ""] * short
