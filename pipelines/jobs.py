"""Which stages make a dataset: the configuration of a run, and the chain of stages each subset's prompts pass."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from inference.likeness.likeness import LikenessConfig
from inference.vlm.vlm import VlmConfig
from pipelines.pack_shards import PackShardsConfig
from pipelines.prompts.compose_rules import TagWeights
from pipelines.prompts.edit_files import EditQuality
from pipelines.run_folder import RunFolder
from pipelines.stage import Link, Step, resolve_chain
from pipelines.stages.caption_images import CaptionImages, CaptionImagesConfig
from pipelines.stages.condense_prompts import CondensePrompts, CondensePromptsConfig
from pipelines.stages.filter_pairs import FilterPairs, FilterPairsConfig
from pipelines.stages.generate_candidates import GenerateCandidates, GenerateCandidatesConfig
from pipelines.stages.ground_objects import GroundObjects, GroundObjectsConfig
from pipelines.stages.quality_floor import QualityConfig
from pipelines.stages.read_edits import ReadEdits, ReadEditsConfig
from pipelines.stages.score_rewards import ScoreRewards, ScoreRewardsConfig
from pipelines.stages.select_by_reward import SelectByLength, SelectByReward, SelectByRewardConfig
from pipelines.stages.select_pairs import DifficultyTertiles, SelectPairs, SelectPairsConfig
from pipelines.stages.write_reflections import WriteReflections, WriteReflectionsConfig
from schemas.configuration import added_field, model_names, routes_names, template_names
from schemas.errors import InputError

SubsetName = Literal["rule", "general", "length", "editing"]


class JobConfig(Protocol):
    """Any kind of run: the chain of stages of each of its subsets, and how its shards are packed."""

    @property
    def seed(self) -> int: ...

    @property
    def unit_size(self) -> int: ...

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
    num_prompts: int = 2000
    """Prompts of each subset."""
    seed: int = 0
    """Seed of prompts, noise and pairing."""
    prompts: str | None = None
    """Prompt file (.txt, .jsonl, .parquet) of `rule`, instead of composed prompts."""
    detailed_prompts: str | None = None
    """Prompt file of `general` and `length`; without one, what the vocabulary's world makes."""
    edits: str | None = None
    """Editing dataset in OmniEdit's form: a .parquet or .tar file, a folder or glob of them, here, on s3://, or on the
    hub (hf://datasets/ORG/NAME/...); files in natural order. Without one, what the vocabulary's world makes."""
    edit_quality: EditQuality = field(default_factory=EditQuality)
    vocabulary: str = "everyday"
    """Objects and attributes that rule prompts are composed of: everyday, a JSON file, or a world's name (micro), whose
    models know no other words."""
    tag_weights: TagWeights = field(default_factory=TagWeights)
    """How often each kind of prompt is composed."""
    closed_vocabulary: bool = False
    """The models know the vocabulary's words alone, so prompts with other words are refused."""
    benchmark_metadata: str | None = None
    """GenEval's evaluation_metadata.jsonl to keep prompts away from; without it, the shipped table of its
    compositions."""
    skip_bad_rows: bool = False
    """Reject malformed rows of the prompt file instead of refusing the file."""
    unit_size: int = 4
    """Prompts a unit: the smallest piece that is committed and resumed."""
    num_threads: int = 2
    """CPU threads of every model: they change the order of sums, so they belong to the run."""
    generate: GenerateCandidatesConfig = field(default_factory=GenerateCandidatesConfig)
    ground: GroundObjectsConfig = field(default_factory=GroundObjectsConfig)
    select: SelectPairsConfig = field(default_factory=SelectPairsConfig)
    rewards: ScoreRewardsConfig = field(default_factory=ScoreRewardsConfig)
    pair: SelectByRewardConfig = field(default_factory=SelectByRewardConfig)
    likeness: LikenessConfig | None = added_field(None)
    """What measures how alike the two images of every pair are, from `--likeness.kind` on; none: nobody does."""
    quality: QualityConfig = field(default_factory=QualityConfig)
    vlm: VlmConfig = field(default_factory=VlmConfig)
    """Who condenses, captions, writes reflections, and verifies where there is no trained verifier. A stage may have
    a VLM of its own: `--condense.vlm...`, `--caption.vlm...`, `--reflect.vlm...`, `--reflect.reflector-vlm...` and
    `--filter.verifier.vlm.vlm...` take the same flags, and say what is different there."""
    condense: CondensePromptsConfig = field(default_factory=CondensePromptsConfig)
    read_edits: ReadEditsConfig = field(default_factory=ReadEditsConfig)
    caption: CaptionImagesConfig = field(default_factory=CaptionImagesConfig)
    annotate: bool = False
    """Have a VLM write the reflections, and a verifier filter the pairs."""
    reflect: WriteReflectionsConfig = field(default_factory=WriteReflectionsConfig)
    filter: FilterPairsConfig = field(default_factory=FilterPairsConfig)
    pack: PackShardsConfig = field(default_factory=PackShardsConfig)

    def links(self) -> dict[str, list[Link]]:
        """The stages of each subset, in order (ReflectionFlow §3.2)."""
        tertiles = DifficultyTertiles() if self.select.difficulty == "quantiles" else None
        drawing = replace(self.generate, generator=self.generate.generator.only_what_is_used())
        rewards = self.rewards.only_what_is_used(self.vlm)
        generate, score = Link(GenerateCandidates, drawing), Link(ScoreRewards, rewards)
        ground = replace(self.ground, grounded_sam=self.ground.grounded_sam.only_what_is_used())
        condense = replace(self.condense, vlm=self.condense.vlm or self.vlm)
        caption = replace(self.caption, vlm=self.caption.vlm or self.vlm)
        reflect = replace(self.reflect, vlm=self.reflect.vlm or self.vlm)
        self.filter.verifier.check_mean()
        verifier = self.filter.verifier.only_what_is_used(self.vlm)
        quality = self.quality.over(rewards)
        if quality and self.subsets == ("editing",):
            raise InputError("a floor for edits, which nothing scores", field="quality.min", expected="other subsets")
        likeness = self.likeness and self.likeness.only_what_is_used()
        for name, partner in (("select", self.select.partner), ("pair", self.pair.partner)):
            if partner == "nearest" and likeness is None:
                raise InputError(
                    "nearest by what?",
                    field=f"{name}.partner",
                    expected="with it --likeness.kind pixels (drawings of flat colours), clip or dino",
                )
        pair = replace(self.pair, quality=quality, likeness=likeness)
        select = Link(SelectPairs, replace(self.select, quality=quality, likeness=likeness), barrier=tertiles)
        chains: dict[str, list[Link]] = {
            "rule": [generate, Link(GroundObjects, ground), *([score] if quality else []), select],
            "general": [generate, score, Link(SelectByReward, pair)],
            "length": [Link(CondensePrompts, condense), generate, score, Link(SelectByLength, pair)],
            "editing": [Link(ReadEdits, replace(self.read_edits, likeness=likeness)), Link(CaptionImages, caption)],
        }
        last = [Link(WriteReflections, reflect), Link(FilterPairs, replace(self.filter, verifier=verifier))]
        return {subset: chains[subset] + (last if self.annotate else []) for subset in self.subsets}


def models_of(config: JobConfig) -> tuple[str, ...]:
    """Every model that a stage of the run uses, in the order of use."""
    return _named(config, model_names)


def templates_of(config: JobConfig) -> tuple[str, ...]:
    """Every prompt template that a stage of the run uses."""
    return _named(config, template_names)


def routes_of(config: JobConfig) -> tuple[str, ...]:
    """Every table of routes that a stage of the run goes by."""
    return _named(config, routes_names)


def _named(config: JobConfig, names_of: Callable[[Any], tuple[str, ...]]) -> tuple[str, ...]:
    links = [link for links in config.links().values() for link in links]
    return tuple(dict.fromkeys(name for link in links for name in names_of(link.config)))


def resolve_chains(folder: RunFolder, config: JobConfig) -> dict[str, list[Step]]:
    """Every subset's chain with keys, as far as barriers are settled."""
    info = folder.info
    return {
        subset: resolve_chain(links, info.root_key, info.digests, folder.barrier, folder.num_prompts(subset))
        for subset, links in config.links().items()
    }
