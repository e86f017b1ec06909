"""A search over many prompts as a run: each round is a stage, and the judge comes last."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from inference.allocation import AllocationConfig
from inference.judges.known_words import KnownWords
from inference.search import SearchConfig
from inference.search_tools import SearchToolsConfig
from inference.verifier import VerifierKind
from inference.vlm.vlm import VlmConfig
from pipelines.pack_shards import PackShardsConfig
from pipelines.prompts.compose_rules import TagWeights, compose_prompts
from pipelines.prompts.judgeable import Asked, Unjudged, count_unjudged
from pipelines.prompts.worlds import benchmark_names, benchmark_prompts, world_of
from pipelines.stage import Link, Workers
from pipelines.stages.allocate_round import AllocateRound, AllocateRoundConfig, RoundBudget
from pipelines.stages.draft_round import DraftRound, DraftRoundConfig
from pipelines.stages.judge_candidates import JudgeCandidates, JudgeCandidatesConfig
from pipelines.stages.score_drafts import ScoreDrafts, ScoreDraftsConfig
from schemas.configuration import execution_field
from schemas.errors import InputError
from schemas.records import PromptRecord, PromptRow, Subset

COMPOSED = "composed"


@dataclass(frozen=True)
class SearchJobConfig:
    """What a search run makes."""

    prompts: str = "evaluation_metadata.jsonl"
    """A file of prompts in GenEval's form (its evaluation_metadata.jsonl, or text); composed: prompts that no benchmark
    has, composed as for datasets, to harvest from; or a benchmark of the micro world: micro-dev, micro-test,
    micro-hard-dev, micro-hard-test, micro-hard-test-2, micro-compositional-dev, micro-compositional-test."""
    vocabulary: str = "everyday"
    """Objects and attributes of composed prompts, and what the models know where it is closed: everyday, micro, or a
    JSON file."""
    num_prompts: int = 0
    """Prompts that are taken, evenly over the tags; 0: all (of composed ones there is no end)."""
    tag_weights: TagWeights = field(default_factory=TagWeights)
    """How often each kind of prompt is composed."""
    unjudged: Unjudged = execution_field("refuse")
    """Prompts that the judge cannot judge, since its models do not know a class or colour, or nothing is said of what
    must be seen. refuse: a search with such prompts is not begun; count: they are searched like the others, left out of
    every score, and counted apart."""
    images_per_prompt: int = 1
    """Independent searches of each prompt, each delivering one image (GenEval: 4)."""
    seed: int = 0
    """Seed of all noise."""
    unit_size: int = 4
    """Searches a unit: the smallest piece that is committed and resumed."""
    num_threads: int = 2
    """CPU threads of every model: they change the order of sums, so they belong to the run."""
    closed_vocabulary: bool = False
    """The models know the vocabulary's words alone, so prompts with other words are refused."""
    search: SearchConfig = field(default_factory=SearchConfig)
    vlm: VlmConfig = field(default_factory=VlmConfig)
    """Who reflects, refines, and verifies where no other verifier is named. A role may have a VLM of its own:
    `--tools.critic.vlm.vlm...`, `--tools.critic.vlm.reflector-vlm...` and `--tools.verifier.vlm.vlm...` take the same
    flags, and say what is different there."""
    tools: SearchToolsConfig = field(default_factory=SearchToolsConfig)
    allocation: AllocationConfig = field(default_factory=AllocationConfig)
    also_score: tuple[VerifierKind, ...] = ()
    """More verifiers that score every image afterwards, without a say: whose choice would have been better?"""
    workers: Workers = execution_field(Workers())
    judge: JudgeCandidatesConfig = field(default_factory=JudgeCandidatesConfig)
    pack: PackShardsConfig = field(default_factory=PackShardsConfig)

    def links(self) -> dict[str, list[Link]]:
        """A round's key knows nothing of how many come after it: a deeper search goes on. InputError."""
        search, budget = self.search, self.allocation.budget
        if 0 < budget < search.width:
            said = f"{budget:g} images a prompt, where the first round takes {search.width}"
            raise InputError(said, field="allocation.budget", expected=f"0, or at least {search.width}")
        if budget and set(self.tools.verifier.kinds) & {"rewards", "nvila"}:
            raise InputError(
                f"verifier {' '.join(self.tools.verifier.kinds)}: its scores compare images of one prompt alone",
                field="allocation.budget",
                expected="0, or verifiers whose scores are log-odds: vlm, prompted, trained, rules",
            )
        once = replace(search, depth=1, seed=0)  # the seed is the run's
        draft = DraftRoundConfig(once, self.tools.for_search(search, self.vlm), self.workers)
        links = [Link(DraftRound, draft)]
        for _ in range(1, search.depth):
            if budget:
                config = AllocateRoundConfig(self.allocation, search.width)
                links.append(Link(AllocateRound, config, barrier=RoundBudget(config)))
            links.append(Link(DraftRound, draft))
        if self.also_score:
            verifier = replace(self.tools.verifier, kinds=self.also_score).only_what_is_used(self.vlm)
            links.append(Link(ScoreDrafts, ScoreDraftsConfig(verifier, self.workers)))
        judge = replace(self.judge, judge=self.judge.judge.only_what_is_used())
        return {Subset.RULE: [*links, Link(JudgeCandidates, judge)]}


def search_prompts(config: SearchJobConfig, asked: Sequence[Asked] | None = None) -> Iterator[PromptRow]:
    """The rows of a search run: `images_per_prompt` for each prompt, told apart by a number behind the id. asked: its
    prompts, where they have been read already. InputError (file, line, field)."""
    if config.images_per_prompt < 1 or config.unit_size < 1 or config.num_prompts < 0:
        raise InputError(
            f"{config.images_per_prompt} images a prompt, units of {config.unit_size}, {config.num_prompts} prompts",
            expected="at least 1, 1 and 0",
        )
    for one in asked_prompts(config) if asked is None else asked:
        for number in range(config.images_per_prompt):
            name = one.record.prompt_id if config.images_per_prompt == 1 else f"{one.record.prompt_id}-{number}"
            yield PromptRow(replace(one.record, prompt_id=name))


def num_unjudged(config: SearchJobConfig, asked: Sequence[Asked]) -> int:
    """How many of a search's prompts no verdict can be given for. InputError for the first of them unless they are to
    be counted, and for those that whoever chooses could not judge either; MissingWeightsError."""
    judge = config.judge.judge.only_what_is_used()
    number = count_unjudged(asked, judge.known_words(), judge.label, config.unjudged)
    choosing = [kind for kind in (*config.tools.verifier.kinds, *config.also_score) if kind in ("rules", "judge")]
    if choosing:  # rules find whatever they are told to look for
        known = judge.known_words() if "judge" in choosing else KnownWords()
        count_unjudged(asked, known, f"verifier {choosing[-1]!r}")
    return number


def asked_prompts(config: SearchJobConfig) -> list[Asked]:
    """The prompts that are searched, each once, and where they stand. InputError (file, line, field)."""
    return _evenly(_asked(config), config.num_prompts)


def _asked(config: SearchJobConfig) -> list[Asked]:
    benchmark = benchmark_prompts(config.prompts)
    if benchmark is not None:
        return [Asked(record) for record in benchmark()]
    if config.prompts == COMPOSED:
        return [Asked(record) for record in _composed(config)]
    from pipelines.prompts.read_prompts import numbered_prompts
    from pipelines.prompts.vocabulary import load_vocabulary

    if not Path(config.prompts).exists():
        expected = f"{', '.join([*benchmark_names(), COMPOSED])}, or a prompt file"
        raise InputError("no such file", file=config.prompts, expected=expected)
    words = load_vocabulary(config.vocabulary) if config.closed_vocabulary else None
    known = KnownWords(words.class_names, frozenset(words.colors)) if words else KnownWords()
    return [Asked(record, config.prompts, line) for line, record in numbered_prompts(config.prompts, known)]


def _composed(config: SearchJobConfig) -> list[PromptRecord]:
    from pipelines.prompts.overlap import BenchmarkOverlap
    from pipelines.prompts.vocabulary import load_vocabulary

    if not config.num_prompts:
        raise InputError("how many composed prompts?", field="--num-prompts", expected="a number")
    vocabulary = load_vocabulary(config.vocabulary)
    world = world_of(config.vocabulary) if config.closed_vocabulary else None
    reserved = world.is_reserved if world else None
    overlap = BenchmarkOverlap.shipped()
    composed = compose_prompts(vocabulary, config.num_prompts, config.seed, overlap, config.tag_weights, reserved)
    return list(composed.prompts)


def _evenly(prompts: list[Asked], number: int) -> list[Asked]:
    """The first of each tag, then the second of each, ..., until there are `number` (0: all); in the file's order."""
    if not number or number >= len(prompts):
        return prompts
    seen: dict[str | None, int] = {}
    ranked = []
    for place, one in enumerate(prompts):
        turn = seen.get(one.record.tag, 0)
        seen[one.record.tag] = turn + 1
        ranked.append((turn, place))
    return [prompts[place] for place in sorted(place for _, place in sorted(ranked)[:number])]
