"""ReflectionFlow's search (Algorithm 1): N chains, D rounds, every image kept with how it came about.

Round 0 draws N images of the prompt. In each further round, each chain reflects on its last image, refines its prompt,
and draws again: by the corrector from the flawed image (reflection), or by the generator from fresh noise (prompt,
noise, and where the reflector finds nothing to correct). The answer is the best image of all rounds by the verifier,
which always scores against the user's prompt. Smaller budgets are prefixes: the first n images of a run are the run
with budget n.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, Protocol

import numpy as np
import tyro

from inference.allocation import Tried, go_on_from
from inference.interfaces import Corrector, Generator, Reward, Verifier, check_scores, rank_of, verify_records
from inference.prompt_grammar import record_of
from inference.reflection_text import is_empty, nothing_to_correct
from inference.requirements.atoms import failing
from inference.rewards.ensemble import relative_scores
from inference.routes import RouteTable
from schemas.configuration import added_field, stable_seed
from schemas.errors import InputError
from schemas.image_size import ImageSize
from schemas.records import AtomValue, Cost, PromptRecord
from schemas.records import Reward as RewardValue

NOTHING_WRONG = "The image is right."
"""What our reflectors are taught to answer where nothing is to be corrected (`nothing_to_correct` reads others)."""
Strategy = Literal["noise", "noise+prompt", "noise+prompt+reflection", "reflection"]
Carry = Literal["own", "topk", "best"]
Restart = Literal["edits", "quality", "route", "holds"]
Route = Literal["correct", "learned"]


@dataclass(frozen=True)
class Remark:
    """What is said about an image before the next round: the reflection, the prompt to go on with, what that cost."""

    reflection: str
    prompt: str
    cost: Cost = field(default_factory=Cost)


class Critic(Protocol):
    """Reflector and prompt refiner."""

    def remark(
        self,
        images: Sequence[np.ndarray],
        prompts: Sequence[str],
        current: Sequence[str],
        scores: Sequence[float],
        *,
        explanations: Sequence[str],
        atoms: Sequence[tuple[AtomValue, ...]],
        records: Sequence[PromptRecord],
        reflect: bool,
        refine: bool,
    ) -> list[Remark]:
        """For each image: the user's prompt, the prompt it was drawn from, its score, the verifier's reasons for that
        (empty where it gave none), how far it meets each requirement (empty where no verifier checks them), and the
        prompt's record. reflect, refine: which of the two is used; what is not used need not be asked for."""
        ...


@dataclass(frozen=True)
class SearchConfig:
    """Width, depth and what is varied."""

    width: int = 2
    """Chains: images a round."""
    depth: int = 16
    """Rounds, round 0 included; the budget is width * depth images."""
    strategy: Strategy = "noise+prompt+reflection"
    """What changes from round to round: the noise, the prompt, or the flawed image by a reflection."""
    carry: Carry = "own"
    """Whose image a chain goes on from: its own last one, one of the best `width` so far (`topk`), or its own best
    (`best`), which it leaves for a fresh start after `patience` corrections in vain."""
    patience: int = 2
    """Corrections in vain before a chain starts afresh (`carry` best)."""
    max_edits: int = added_field(0)
    """Corrections of one image after the other, then its chain starts afresh: editors wear an image down. 0: any
    number."""
    max_quality_drop: float = added_field(0.0)
    """A chain whose image scores so much less than the chain's first one, by the search's quality reward
    (`tools.quality`, on its own scale), starts afresh. 0: nobody looks."""
    route: Route = added_field("correct")
    """How a chain whose image is not right goes on: always by a correction, or by the way with the higher expected gain
    for what fails (`learned`: correction or fresh drawing, by `tools.routes`)."""
    seed: Annotated[int, tyro.conf.Suppress] = 0

    def __post_init__(self) -> None:
        if self.max_edits < 0 or not 0 <= self.max_quality_drop < float("inf"):
            said = f"max_edits {self.max_edits}, max_quality_drop {self.max_quality_drop}"
            raise InputError(said, field="search", expected="both 0 or more")
        if self.width < 1 or self.depth < 1 or self.patience < 1:
            said = f"width {self.width}, depth {self.depth}, patience {self.patience}"
            raise InputError(said, expected="all at least 1")

    @property
    def budget(self) -> int:
        """Images of one search."""
        return self.width * self.depth


@dataclass(frozen=True, kw_only=True)
class Draft:
    """One image of a search. explanation: why the verifier scored it so, where it said. parts: of a score that is
    relative to the prompt's other images, what it is made of. quality: by the search's quality reward, where there is
    one. parent: number of the draft it was corrected from, None for one that was drawn afresh. restart: why it was
    drawn afresh where its chain could have gone on: too many edits, too much quality lost, a fresh drawing promises
    more (route), or the image holds all that is asked for (holds). atoms: how far it meets each requirement, by a
    verifier that checks them. cost: of drawing it, of scoring it, and of what was said about the image before."""

    number: int
    round: int
    chain: int
    seed: int
    prompt: str
    image: np.ndarray = field(repr=False)
    score: float
    explanation: str | None = None
    parts: tuple[RewardValue, ...] = ()
    quality: float | None = None
    reflection: str | None = None
    parent: int | None = None
    restart: Restart | None = None
    atoms: tuple[AtomValue, ...] = ()
    cost: Cost = field(default_factory=Cost)


def any_size(*key: object) -> ImageSize | None:
    """The generator's own size, for all."""
    del key


@dataclass
class SearchTools:
    """The models of a search; those that a strategy does not need may be None. quality: what a chain must not lose.
    routes: what a learned route goes by. size_of: of what has a key (seed, prompt's key), None for the generator's own.
    *_passes: denoiser passes an image."""

    generator: Generator
    verifier: Verifier
    corrector: Corrector | None = None
    critic: Critic | None = None
    quality: Reward | None = None
    routes: RouteTable | None = None
    size_of: Callable[..., ImageSize | None] = any_size
    generator_passes: int = 0
    corrector_passes: int = 0


@dataclass
class SearchTrace:
    """One prompt's search so far. record: what a prompt file said of the prompt besides its words (tag, include), for
    verifiers that look at that."""

    prompt: str
    drafts: list[Draft] = field(default_factory=list)
    cost: Cost = field(default_factory=Cost)
    record: PromptRecord | None = None

    @property
    def asked(self) -> PromptRecord:
        """What images are scored against."""
        return self.record or record_of(self.prompt)

    def best(self, budget: int | None = None) -> Draft:
        """The draft with the highest score among the first `budget` (all); of equal ones the first."""
        return max(compared(self.drafts[:budget]), key=lambda draft: (rank_of(draft.score), -draft.number))


def compared(drafts: Sequence[Draft]) -> list[Draft]:
    """The same, with scores that are relative to one another where the verifier's are."""
    if not drafts or not all(draft.parts for draft in drafts):
        return list(drafts)
    scores = relative_scores([draft.parts for draft in drafts])
    return [replace(draft, score=score) for draft, score in zip(drafts, scores, strict=True)]


def search(
    prompts: Sequence[str], config: SearchConfig, tools: SearchTools, keys: Sequence[str] | None = None
) -> list[SearchTrace]:
    """All rounds for all prompts, their chains in common batches. keys: what noise is seeded by, instead of the
    prompts' texts."""
    _check(config, tools)
    keys = list(prompts) if keys is None else list(keys)
    searches = [SearchTrace(prompt) for prompt in prompts]
    for number in range(config.depth):
        next_round(searches, number, config, tools, keys)
    return searches


def next_round(
    searches: Sequence[SearchTrace],
    number: int,
    config: SearchConfig,
    tools: SearchTools,
    keys: Sequence[str],
    stopped: Sequence[bool] | None = None,
) -> None:
    """Add round `number` (`width` drafts each) to the searches, which have all rounds before it, but for those that
    have `stopped`."""
    going = [i for i in range(len(searches)) if not (stopped and stopped[i])]
    plans = [plan for i in going for plan in _plans(i, searches[i], number, config, keys[i], tools)]
    if not plans:
        return
    if number and config.strategy != "noise":
        plans = _with_remarks(searches, plans, config, tools)
    images = _draw(searches, plans, tools)
    opinions = verify_records(tools.verifier, images, [searches[plan.owner].asked for plan in plans])
    qualities = _qualities(tools.quality, images, [searches[plan.owner].prompt for plan in plans])
    for plan, image, opinion, quality in zip(plans, images, opinions, qualities, strict=True):
        one = searches[plan.owner]
        parent = plan.parent if plan.reflection is not None else None
        passes = tools.generator_passes if parent is None else tools.corrector_passes
        cost = Cost(generations=1, denoiser_passes=passes) + opinion.cost + plan.cost
        cost += Cost(reward_calls=int(quality is not None))
        one.drafts.append(
            Draft(
                number=len(one.drafts),
                round=number,
                chain=plan.chain,
                seed=plan.seed,
                prompt=plan.prompt,
                image=image,
                score=opinion.score,
                explanation=opinion.explanation or None,
                parts=opinion.parts,
                quality=quality,
                reflection=plan.reflection,
                parent=parent,
                restart=plan.restart,
                atoms=opinion.atoms,
                cost=cost,
            )
        )
        one.cost += cost
    for i in going:
        searches[i].drafts = compared(searches[i].drafts)


def _qualities(reward: Reward | None, images: Sequence[np.ndarray], prompts: Sequence[str]) -> Sequence[float | None]:
    if reward is None:
        return [None] * len(images)
    scores = reward.score(images, prompts)
    check_scores(scores, prompts, type(reward).__name__)
    return scores.tolist()


@dataclass(frozen=True)
class _Plan:
    """One image to be drawn. size: of one that is drawn afresh. parent: the draft it goes on from (None in round 0).
    restart: why it does not go on from one. cost: of what was said of that."""

    owner: int
    chain: int
    seed: int
    prompt: str
    parent: int | None
    size: ImageSize | None = None
    reflection: str | None = None
    restart: Restart | None = None
    cost: Cost = field(default_factory=Cost)


def _plans(
    owner: int,
    one: SearchTrace,
    number: int,
    config: SearchConfig,
    key: str,
    tools: SearchTools,
) -> list[_Plan]:
    parents = _next_parents(one, config) if number else [None] * config.width
    plans = []
    for chain, parent in enumerate(parents):
        seed = stable_seed(config.seed, "search", key, number, chain)
        restart = restart_of(one, parent, config, tools.routes)
        parent = None if restart else parent
        prompt = parent.prompt if parent else one.prompt
        size = tools.size_of(config.seed, key)
        plans.append(_Plan(owner, chain, seed, prompt, parent and parent.number, size, restart=restart))
    return plans


def parents_of_next_round(
    one: SearchTrace, config: SearchConfig, routes: RouteTable | None = None
) -> Sequence[Draft | None]:
    """What each chain goes on from; None for a fresh start. Of these drafts alone the images are looked at again.
    routes: the search's table, where it has one."""
    return [None if restart_of(one, parent, config, routes) else parent for parent in _next_parents(one, config)]


def _next_parents(one: SearchTrace, config: SearchConfig) -> Sequence[Draft | None]:
    if config.carry == "topk":
        return sorted(one.drafts, key=lambda draft: (-rank_of(draft.score), draft.number))[: config.width]
    if config.carry == "own":
        return one.drafts[len(one.drafts) - config.width :]
    chains = [[d for d in one.drafts if d.chain == chain] for chain in range(config.width)]
    tried = [[Tried(d.number, d.score, d.parent) for d in chain] for chain in chains]
    numbers = [go_on_from(chain, config.patience) for chain in tried]
    return [None if number is None else one.drafts[number] for number in numbers]


def restart_of(
    one: SearchTrace, draft: Draft | None, config: SearchConfig, routes: RouteTable | None = None
) -> Restart | None:
    """Why an image is corrected no further: it holds all that is asked for, by a verifier that checks each requirement
    and is sure of the whole; it was corrected often enough; it lost too much of its chain's first image; or what it
    fails is sooner drawn afresh, by a learned route."""
    if draft is None or "reflection" not in config.strategy:
        return None
    fails = bool(failing(draft.atoms))
    if draft.atoms and not fails and draft.score >= 0:
        return "holds"
    chain = corrected_from(one, draft)
    if 0 < config.max_edits < len(chain):
        return "edits"
    first, last = chain[0].quality, draft.quality
    if config.max_quality_drop and first is not None and last is not None and first - last > config.max_quality_drop:
        return "quality"
    if config.route == "learned" and fails and routes is not None and routes.way(draft.atoms) == "fresh":
        return "route"
    return None


def corrected_from(one: SearchTrace, draft: Draft) -> list[Draft]:
    """The draft and those that it was corrected from, one from the other, the first of them first."""
    chain = [draft]
    while chain[0].parent is not None:
        chain.insert(0, one.drafts[chain[0].parent])
    return chain


def _with_remarks(
    searches: Sequence[SearchTrace], plans: list[_Plan], config: SearchConfig, tools: SearchTools
) -> list[_Plan]:
    """Plans that go on from an image, with what is said of it; fresh starts as they are. Where there is nothing to
    correct, a plan becomes a fresh start: the corrector can only spoil a right image. So it does where the critic has
    nothing to say, which is no verdict on the image, but leaves the corrector nothing to do."""
    assert tools.critic is not None
    going_on = [plan for plan in plans if plan.parent is not None]
    if not going_on:
        return plans
    parents = [searches[plan.owner].drafts[plan.parent or 0] for plan in going_on]
    reflect, refine = "reflection" in config.strategy, "prompt" in config.strategy
    remarks = tools.critic.remark(
        [draft.image for draft in parents],
        [searches[plan.owner].prompt for plan in going_on],
        [draft.prompt for draft in parents],
        [draft.score for draft in parents],
        explanations=[draft.explanation or "" for draft in parents],
        atoms=[draft.atoms for draft in parents],
        records=[searches[plan.owner].asked for plan in going_on],
        reflect=reflect,
        refine=refine,
    )
    said = iter(remarks)
    told = []
    for plan in plans:
        if plan.parent is not None:
            remark, user_prompt = next(said), searches[plan.owner].prompt
            plan = replace(plan, cost=remark.cost)
            if reflect and (is_empty(remark.reflection) or nothing_to_correct(remark.reflection)):
                plan = replace(plan, prompt=user_prompt, parent=None)
            else:
                prompt = remark.prompt if refine else user_prompt
                plan = replace(plan, prompt=prompt, reflection=remark.reflection if reflect else None)
        told.append(plan)
    return told


def _draw(searches: Sequence[SearchTrace], plans: Sequence[_Plan], tools: SearchTools) -> list[np.ndarray]:
    """By the corrector where there is a reflection, else by the generator."""
    images: dict[int, np.ndarray] = {}
    fresh = [i for i, plan in enumerate(plans) if plan.reflection is None]
    again = [i for i, plan in enumerate(plans) if plan.reflection is not None]
    if fresh:
        sizes = [size for i in fresh if (size := plans[i].size) is not None]
        prompts, seeds = [plans[i].prompt for i in fresh], [plans[i].seed for i in fresh]
        drawn = tools.generator.generate(prompts, seeds, sizes) if sizes else tools.generator.generate(prompts, seeds)
        images |= dict(zip(fresh, drawn, strict=True))
    if again:
        assert tools.corrector is not None
        drawn = tools.corrector.correct(
            [searches[plans[i].owner].drafts[plans[i].parent or 0].image for i in again],
            [plans[i].prompt for i in again],
            [plans[i].reflection or "" for i in again],
            [plans[i].seed for i in again],
        )
        images |= dict(zip(again, drawn, strict=True))
    return [images[i] for i in range(len(plans))]


def _check(config: SearchConfig, tools: SearchTools) -> None:
    if config.strategy != "noise" and tools.critic is None:
        raise InputError(f"strategy {config.strategy!r} without a critic", expected="a reflector and prompt refiner")
    if "reflection" in config.strategy and tools.corrector is None:
        raise InputError(f"strategy {config.strategy!r} without a corrector", expected="a trained corrector")
    if config.route == "learned" and tools.routes is None:
        raise InputError("a learned route without a table", field="route", expected="`python -m pipelines routes`")
