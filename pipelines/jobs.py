"""Which stages make a dataset: the configuration of a run, and the chain of stages each subset's prompts pass."""

from dataclasses import dataclass, field
from typing import Literal, Protocol

from pipelines.pack_shards import PackShardsConfig
from pipelines.run_folder import RunFolder
from pipelines.stage import Link, Step, resolve_chain
from pipelines.stages.generate_candidates import GenerateCandidates, GenerateCandidatesConfig
from pipelines.stages.ground_objects import GroundObjects, GroundObjectsConfig
from pipelines.stages.select_pairs import DifficultyTertiles, SelectPairs, SelectPairsConfig

SubsetName = Literal["rule"]


class JobConfig(Protocol):
    """Any kind of run: the chain of stages of each of its subsets, and how its shards are packed."""

    @property
    def num_threads(self) -> int: ...

    @property
    def pack(self) -> PackShardsConfig: ...

    def links(self) -> dict[str, list[Link]]:
        """The stages of each subset, in order."""
        ...


@dataclass(frozen=True)
class DatasetConfig:
    """What a dataset run makes. Everything here belongs to the run's identity; how it is computed does not."""

    subsets: tuple[SubsetName, ...] = ("rule",)
    """Sources of pairs to build."""
    num_prompts: int = 48
    """Prompts of each subset."""
    seed: int = 0
    """Seed of prompts, noise and pairing."""
    prompts: str | None = None
    """Prompt file (.txt, .jsonl, .parquet) instead of composed prompts."""
    vocabulary: str = "micro"
    """Objects and attributes that rule prompts are composed of: micro, everyday, or a JSON file."""
    closed_vocabulary: bool = True
    """The models know the vocabulary's words alone, so prompts with other words are refused."""
    benchmark_metadata: str | None = None
    """GenEval's evaluation_metadata.jsonl to keep prompts away from; without it, the shipped table of its
    compositions."""
    skip_bad_rows: bool = False
    """Reject malformed rows of the prompt file instead of refusing the file."""
    unit_size: int = 8
    """Prompts a unit: the smallest piece that is committed and resumed."""
    num_threads: int = 2
    """CPU threads of every model: they change the order of sums, so they belong to the run."""
    generate: GenerateCandidatesConfig = field(default_factory=GenerateCandidatesConfig)
    ground: GroundObjectsConfig = field(default_factory=GroundObjectsConfig)
    select: SelectPairsConfig = field(default_factory=SelectPairsConfig)
    pack: PackShardsConfig = field(default_factory=PackShardsConfig)

    def links(self) -> dict[str, list[Link]]:
        """The stages of each subset, in order (ReflectionFlow §3.2)."""
        tertiles = DifficultyTertiles() if self.select.difficulty == "quantiles" else None
        rule = [
            Link(GenerateCandidates, self.generate),
            Link(GroundObjects, self.ground),
            Link(SelectPairs, self.select, barrier=tertiles),
        ]
        chains = {"rule": rule}
        return {subset: chains[subset] for subset in self.subsets}


def resolve_chains(folder: RunFolder, config: JobConfig) -> dict[str, list[Step]]:
    """Every subset's chain with keys, as far as barriers are settled."""
    barriers, info = folder.barriers(), folder.info
    return {
        subset: resolve_chain(links, info.root_key, info.digests, barriers, folder.num_prompts(subset))
        for subset, links in config.links().items()
    }
