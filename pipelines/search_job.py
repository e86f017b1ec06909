"""A search over many prompts as a run: each round is a stage, and the judge, where there is one, comes last."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from inference.allocation import AllocationConfig
from inference.judges.known_words import KnownWords
from inference.requirements.reader import RequirementsConfig
from inference.search import SearchConfig
from inference.search_tools import SearchToolsConfig
from inference.verifier import VerifierConfig, VerifierKind
from inference.vlm.vlm import VlmConfig
from pipelines.pack_shards import PackShardsConfig
from pipelines.prompts.compose_rules import TagWeights, compose_prompts
from pipelines.prompts.judgeable import Asked, Unjudged, count_unjudged
from pipelines.prompts.worlds import benchmark_names, benchmark_prompts, world_of
from pipelines.stage import Link, Workers
from pipelines.stages.allocate_round import AllocateRound, AllocateRoundConfig, RoundBudget
from pipelines.stages.draft_round import DraftRound, DraftRoundConfig
from pipelines.stages.judge_candidates import JudgeCandidates, JudgeCandidatesConfig
from pipelines.stages.read_requirements import ReadRequirements, ReadRequirementsConfig
from pipelines.stages.score_drafts import ScoreDrafts, ScoreDraftsConfig
from schemas.configuration import added_field, execution_field
from schemas.errors import InputError
from schemas.foreign_json import quote, safe_text
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
    """Prompts that a judge of a closed vocabulary cannot judge, since its models do not know a class or colour, or
    nothing is said of what must be seen. refuse: a search with such prompts is not begun; count: they are searched like
    the others, left out of every score, and counted apart."""
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
    requirements: RequirementsConfig = added_field(RequirementsConfig())
    """Who reads what free prompts ask for, piece by piece."""
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
                expected="0, or verifiers whose scores are log-odds: vlm, prompted, trained, rules, atoms",
            )
        once = replace(search, depth=1, seed=0)  # the seed is the run's
        draft = DraftRoundConfig(once, self.tools.for_search(search, self.vlm), self.workers)
        links = []
        if self.requirements.kind == "vlm":
            reading = ReadRequirementsConfig(self.requirements.only_what_is_used(self.vlm), self.workers)
            links.append(Link(ReadRequirements, reading))
        links.append(Link(DraftRound, draft))
        for _ in range(1, search.depth):
            if budget:
                config = AllocateRoundConfig(self.allocation, search.width)
                links.append(Link(AllocateRound, config, barrier=RoundBudget(config)))
            links.append(Link(DraftRound, draft))
        if self.also_score:
            verifier = replace(self.tools.verifier, kinds=self.also_score).only_what_is_used(self.vlm)
            links.append(Link(ScoreDrafts, ScoreDraftsConfig(verifier, self.workers)))
        judge = replace(self.judge, judge=self.judge.judge.only_what_is_used())
        links += [Link(JudgeCandidates, judge)] if judge.judge.is_there else []
        return {Subset.RULE: links}


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
            yield PromptRow(replace(config.requirements.told(one.record), prompt_id=name))


def num_unjudged(config: SearchJobConfig, asked: Sequence[Asked]) -> int:
    """How many of a search's prompts no verdict can be given for: all where nobody judges. InputError for the first of
    them unless they are to be counted, for those that whoever chooses could not judge either, and for a judge that
    also chooses; MissingWeightsError."""
    judge = config.judge.judge.only_what_is_used()
    if judge.questions is not None:
        judge.questions.check_others(config.tools.verifier.only_what_is_used(config.vlm))
    number = len(asked)
    if judge.is_there:
        number = count_unjudged(asked, judge.known_words(), judge.label, config.unjudged)
    kinds = (*config.tools.verifier.kinds, *config.also_score)
    check_choosing(config.tools.verifier, kinds, config.requirements, asked)
    return number


def check_choosing(
    verifier: VerifierConfig, kinds: Sequence[VerifierKind], requirements: RequirementsConfig, asked: Sequence[Asked]
) -> None:
    """InputError for prompts that one of the verifiers could not look at: those that look for objects know clauses
    alone, and where requirements are checked one by one, somebody must say them."""
    check_all_is_said(kinds, requirements, asked)
    choosing = [kind for kind in kinds if kind in ("rules", "judge")]
    if choosing:  # rules find whatever they are told to look for
        bound = verifier.judge if "judge" in choosing else None
        known = bound.only_what_is_used().known_words() if bound is not None else KnownWords()
        or_else = "; or a verifier that needs no clauses (vlm, prompted, trained, rewards)"
        count_unjudged(asked, known, f"verifier {choosing[-1]!r}", or_else=or_else)


def check_all_is_said(kinds: Sequence[VerifierKind], requirements: RequirementsConfig, asked: Sequence[Asked]) -> None:
    """InputError for a prompt that nobody says the requirements of, where they are checked one by one."""
    if "atoms" not in kinds or requirements.kind != "none":
        return
    free = [one for one in asked if one.record.is_free]
    if free:
        shown = safe_text(free[0].record.text, 80)
        raise InputError(
            f"{len(free)} of {len(asked)} prompts do not say what must be seen, such as {quote(shown)}, and verifier "
            "'atoms' checks that piece by piece",
            file=free[0].file,
            line=free[0].line,
            field="requirements.kind",
            expected="--requirements.kind vlm (a VLM reads such prompts, once each), or whole (each is one question); "
            "or include or vqa_list beside them; or a verifier that needs neither (vlm, prompted, trained, rewards)",
        )


def asked_prompts(config: SearchJobConfig) -> list[Asked]:
    """The prompts that are searched, each once, and where they stand. InputError (file, line, field)."""
    return _evenly(_asked(config), config.num_prompts)


def _asked(config: SearchJobConfig) -> list[Asked]:
    benchmark = benchmark_prompts(config.prompts)
    if benchmark is not None:
        return [Asked(record) for record in benchmark()]
    if config.prompts == COMPOSED:
        return [Asked(record) for record in _composed(config)]
    from pipelines.prompts.read_prompts import Known, numbered_prompts
    from pipelines.prompts.vocabulary import load_vocabulary

    if not Path(config.prompts).exists():
        expected = f"{', '.join([*benchmark_names(), COMPOSED])}, or a prompt file"
        raise InputError("no such file", file=config.prompts, expected=expected)
    known = Known.of(load_vocabulary(config.vocabulary), config.vocabulary, config.closed_vocabulary)
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
