"""A harvest as a run: the searched prompts again, and one stage that takes pairs out of their traces."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from pipelines.jobs import resolve_chains
from pipelines.pack_shards import PackShardsConfig
from pipelines.prompts.overlap import BenchmarkOverlap
from pipelines.prompts.worlds import benchmark_prompts, world_of
from pipelines.run_folder import RunFolder
from pipelines.search_job import SearchJobConfig
from pipelines.stage import Link
from pipelines.stages.draft_round import DraftRound
from pipelines.stages.harvest_pairs import HarvestPairs, HarvestPairsConfig
from schemas.errors import InputError
from schemas.records import PromptRow, Reason, Rejection, Subset


@dataclass(frozen=True)
class HarvestJobConfig:
    """What a harvest makes. Units are the search's."""

    seed: int = 0
    unit_size: int = 8
    num_threads: int = 1
    harvest: HarvestPairsConfig = field(default_factory=HarvestPairsConfig)
    pack: PackShardsConfig = field(default_factory=PackShardsConfig)

    def links(self) -> dict[str, list[Link]]:
        """One stage."""
        likeness = self.harvest.likeness and self.harvest.likeness.only_what_is_used()
        return {Subset.RULE: [Link(HarvestPairs, replace(self.harvest, likeness=likeness))]}


def harvested(folder: RunFolder, config: SearchJobConfig) -> tuple[tuple[str, ...], str]:
    """Keys of a search's rounds, and who wrote its reflections. InputError for a search that must not train anything:
    its prompts are a benchmark's, or the judge had a say in it."""
    uri, tools = folder.storage.uri, config.tools
    if benchmark_prompts(config.prompts) is not None:
        raise InputError(
            f"{uri} searched {config.prompts}", field="--run", expected="a search of no benchmark's prompts"
        )
    if "judge" in tools.verifier.kinds:
        raise InputError(f"{uri}: the judge chose", field="--run", expected="a search that the judge has no say in")
    if "reflection" not in config.search.strategy:
        raise InputError(
            f"{uri}: {config.search.strategy}, nothing is said of images", expected="a search with reflections"
        )
    (steps,) = resolve_chains(folder, config).values()
    writer = tools.critic.writer(config.vlm) if tools.critic else ""
    return tuple(s.key for s in steps if s.link.stage is DraftRound), writer


def num_unjudged(folder: RunFolder) -> int:
    """How many of a search's prompts no verdict could be given for (it was told to go on with them): its score says
    nothing of them, nor of what is harvested there."""
    return int(folder.info.intake.get(Subset.RULE, {}).get("not_judged", 0))


def harvest_prompts(folder: RunFolder, vocabulary: str, counts: Counter[str]) -> Iterator[PromptRow]:
    """The search's prompts; those that repeat a benchmark's, or have a composition that the vocabulary's world keeps,
    are turned down."""
    overlap, world = BenchmarkOverlap.shipped(), world_of(vocabulary)
    for row in folder.all_prompts():
        counts[Subset.RULE] += 1
        kind = overlap.find(row.prompt)
        if kind is None and world is not None and world.is_reserved(row.prompt):
            kind = f"a composition that the {world.name} world keeps for its benchmarks"
        if kind is not None:
            counts[Reason.BENCHMARK_PROMPT] += 1
            row = PromptRow(row.prompt, rejection=Rejection("intake", Reason.BENCHMARK_PROMPT, str(kind)))
        yield row
