"""Write for each pair how to get from its bad image to its good one, and why."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Literal

from inference.interfaces import ChatRequest, Vlm
from inference.reflection_text import is_empty, nothing_to_correct, reflection_of
from inference.vlm.asking import ask_until_read
from inference.vlm.clean_text import json_of
from inference.vlm.critic import reflecting_vlm, reflector_words
from inference.vlm.grid import image_grid
from inference.vlm.prompts import fill_prompt, load_prompt
from inference.vlm.vlm import VlmConfig
from pipelines.model_costs import vlm_costs
from pipelines.stage import StageCosts, Workers
from pipelines.stages.asks_vlm import AsksVlm
from pipelines.stages.candidate_images import image_of
from pipelines.stated_figures import REFLECT_SECONDS, Gpu
from schemas.configuration import execution_field, model_field, stable_seed, template_field
from schemas.errors import InputError
from schemas.plain_text import readable
from schemas.records import Cost, Pair, PromptRow, Reason, Reflection, Rejection

ANSWER_SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "Analysis": {"type": "string"},
            "Result": {"type": "string", "enum": ["left", "right"]},
            "Instructions": {"type": "string"},
        },
        "required": ["Analysis", "Result", "Instructions"],
        "additionalProperties": False,
    }
)
_VAGUE = re.compile(r"\b(ensure|verify|make sure|double.check|check (that|whether|if))\b", re.IGNORECASE)
_SWAP = re.compile(r"\b(?:replace|change|turn) (.+?) (?:by|with|into|to) (.+?)[.!]?$", re.IGNORECASE)
_ARTICLE = re.compile(r"^(?:the|an?|one|this|that) ", re.IGNORECASE)
_SIDE = re.compile(
    r"\b(left|right|first|second|other|better|worse|good|bad)(-hand)? (image|picture|photo|one|side image)\b", re.I
)
_OF_REFLECTIONS = {
    Reason.REFUSED_ANSWER: Reason.REFUSED_REFLECTION,
    Reason.EMPTY_ANSWER: Reason.EMPTY_REFLECTION,
}
_MIN_CHARS = 5  # the published trainer takes anything shorter for no reflection


@dataclass(frozen=True)
class WriteReflectionsConfig:
    """Who writes reflections, and how the two images are shown."""

    vlm: VlmConfig | None = None
    """The run's VLM, unless this stage has one of its own."""
    prompt: str = template_field("compare")
    """Template with {prompt} for the chain of thought over both images: a name in inference/prompts, or a file."""
    cot_share: float = 1.0
    """Share of the pairs (seeded) that `vlm` compares in a chain of thought; the reflector writes the others'."""
    reflector: str = model_field("")
    """A trained reflector's weights; without one the other pairs keep what they have."""
    reflector_vlm: VlmConfig | None = None
    """How the reflector is reached and samples, where that is not as `vlm` is; its model is the reflector unless
    `reflector` names another."""
    reflector_prompt: str = template_field("")
    """Template with {prompt} for the bad image alone; without one the reflector is asked in the words that it was
    trained in, which its folder holds (`reflector.json`), or where it has none, in our own (`reflect`)."""
    layout: Literal["grid", "apart"] = "grid"
    """Both images side by side in one, or as two."""
    image_px: int = 768
    """Images are shown with at most this longer side; 0: as they are."""
    keep_given: tuple[str, ...] = ("editing",)
    """Subsets whose pairs keep the reflection that they came with."""
    max_attempts: int = 3
    """Tries for an answer that reads as JSON."""
    workers: Workers = execution_field(Workers())

    @property
    def reflecting(self) -> VlmConfig | None:
        """Who writes without a chain of thought, where anybody does."""
        if not (self.reflector or self.reflector_vlm):
            return None
        return reflecting_vlm(self.reflector, self.reflector_vlm, self.vlm or VlmConfig())

    def __post_init__(self) -> None:
        if not 0 <= self.cot_share <= 1:
            raise InputError(f"{self.cot_share}", field="reflect.cot_share", expected="a share, 0 to 1")
        if self.max_attempts < 1:
            raise InputError(f"{self.max_attempts} tries", field="reflect.max_attempts", expected="at least 1")


@dataclass(frozen=True)
class _Task:
    row: int
    pair: Pair
    good_side: str | None  # None: the reflector's
    request: ChatRequest


@dataclass(frozen=True)
class Verdict:
    """The annotator's answer."""

    analysis: str
    result: str
    instruction: str


class WriteReflections(AsksVlm):
    """Chain-of-thought annotation (ReflectionFlow §3.2 and appendix D.4): analysis, verdict, one instruction.

    The good image's side is a seeded coin flip that nobody is told; a verdict for the other side rejects the pair, so
    does an instruction that is none.
    """

    name: ClassVar[str] = "write_reflections"
    version: ClassVar[int] = 3
    reads_images: ClassVar[bool] = True

    def load(self) -> None:
        if self.config.cot_share > 0:
            self.vlm: Vlm = self._vlm_config.open(self.journal)
        if self.config.reflecting:
            self.reflector: Vlm = self.config.reflecting.open(self.journal)

    @classmethod
    def costs(cls, config: WriteReflectionsConfig, gpu: Gpu | None) -> StageCosts:
        return vlm_costs(REFLECT_SECONDS, 0.3, config.vlm, gpu)

    @property
    def _vlm_config(self) -> VlmConfig:
        return self.config.vlm or VlmConfig()

    @cached_property
    def _reflector_words(self) -> str:
        return reflector_words(self.config.reflecting, self.config.reflector_prompt)

    def __call__(self, rows: Sequence[PromptRow]) -> list[PromptRow]:
        tasks = [task for number, row in enumerate(rows) for task in self._tasks(number, row)]
        done: dict[tuple[int, int], tuple[Pair, Cost]] = {}
        done |= self._compare([task for task in tasks if task.good_side])
        done |= self._reflect([task for task in tasks if not task.good_side])
        return [self._row(number, row, done) for number, row in enumerate(rows)]

    def _tasks(self, number: int, row: PromptRow) -> Iterator[_Task]:
        config, prompt = self.config, row.prompt
        by_index = {candidate.index: candidate for candidate in row.candidates}
        for pair in row.pairs:
            if pair.rejection or (pair.reflection and prompt.subset in config.keep_given):
                continue
            good, bad = (image_of(row, by_index[i]) for i in (pair.good, pair.bad))
            if _share(self.seed, "cot", prompt.prompt_id, pair.index) < config.cot_share:
                side = "left" if _share(self.seed, "side", prompt.prompt_id, pair.index) < 0.5 else "right"
                both = (good, bad) if side == "left" else (bad, good)
                images = image_grid(both, config.image_px) if config.layout == "grid" else both
                text = fill_prompt(load_prompt(config.prompt), prompt=prompt.text)
                yield _Task(number, pair, side, ChatRequest(text, tuple(images), json_schema=ANSWER_SCHEMA))
            elif config.reflecting:
                text = fill_prompt(self._reflector_words, prompt=prompt.text)
                yield _Task(number, pair, None, ChatRequest(text, (bad,)))

    def _compare(self, tasks: Sequence[_Task]) -> dict[tuple[int, int], tuple[Pair, Cost]]:
        if not tasks:
            return {}
        requests = [task.request for task in tasks]
        asked = ask_until_read(self.vlm, requests, lambda _, text: read_verdict(text), self.config.max_attempts)
        done = {}
        for task, found in zip(tasks, asked, strict=True):
            pair, verdict = task.pair, found.value
            if verdict is None:
                pair = self._reject(pair, Reason.MALFORMED_ANSWER, found.last_text)
            else:
                reflection = Reflection(
                    reflection_of(verdict.instruction).text,
                    self._vlm_config.name,
                    verdict.analysis,
                    verdict.result,
                    task.good_side,
                )
                pair = replace(pair, reflection=reflection)
                problem = Reason.WRONG_VERDICT if verdict.result != task.good_side else problem_of(verdict.instruction)
                if problem is not None:
                    pair = self._reject(pair, problem, verdict.instruction)
            done[task.row, pair.index] = (pair, found.cost)
        return done

    def _reflect(self, tasks: Sequence[_Task]) -> dict[tuple[int, int], tuple[Pair, Cost]]:
        if not tasks:
            return {}
        requests = [task.request for task in tasks]
        asked = ask_until_read(
            self.reflector, requests, lambda _, text: None if is_empty(text) else text, self.config.max_attempts
        )
        done = {}
        for task, found in zip(tasks, asked, strict=True):
            text = reflection_of(found.value or "").text
            pair = replace(task.pair, reflection=Reflection(text, self.config.reflecting.name))
            problem = problem_of(found.value or found.last_text)
            if found.value is None:  # or cut off
                problem = problem or Reason.EMPTY_REFLECTION
            if problem is not None:
                pair = self._reject(pair, problem, found.last_text)
            done[task.row, pair.index] = (pair, found.cost)
        return done

    def _reject(self, pair: Pair, reason: Reason, said: str) -> Pair:
        return replace(pair, rejection=Rejection(self.name, reason, readable(said[:300])))

    def _row(self, number: int, row: PromptRow, done: dict[tuple[int, int], tuple[Pair, Cost]]) -> PromptRow:
        found = {index: value for (owner, index), value in done.items() if owner == number}
        pairs = tuple(found[pair.index][0] if pair.index in found else pair for pair in row.pairs)
        cost = sum((value[1] for value in found.values()), Cost())
        return without_pairs_rejected(replace(row, pairs=pairs, cost=cost), self.name)


def without_pairs_rejected(row: PromptRow, stage: str) -> PromptRow:
    """The row; rejected too where none of its pairs is left."""
    if any(pair.rejection is None for pair in row.pairs):
        return row
    reasons = ", ".join(str(pair.rejection.reason) for pair in row.pairs if pair.rejection)
    return replace(row, rejection=Rejection(stage, Reason.NO_PAIR_LEFT, reasons))


def read_verdict(text: str) -> Verdict | None:
    """The answer, if it is JSON of exactly the three keys, whatever stands around it; else None."""
    try:
        said = json_of(text)
    except ValueError:
        return None
    if not isinstance(said, dict) or set(said) != {"Analysis", "Result", "Instructions"}:
        return None
    told = said["Instructions"]
    told = told[0] if isinstance(told, list) and len(told) == 1 else told
    analysis, result = said["Analysis"], said["Result"]
    if not (isinstance(analysis, str) and isinstance(told, str) and result in ("left", "right")):
        return None
    return Verdict(readable(analysis).strip(), result, told.strip())


def problem_of(instruction: str) -> Reason | None:
    """Why an instruction is none that a corrector could follow; None for one that is."""
    if nothing_to_correct(instruction):
        return Reason.NOTHING_TO_CORRECT
    said = reflection_of(instruction)
    if said.problem is not None:
        return _OF_REFLECTIONS.get(said.problem, said.problem)
    instruction = said.text
    if len(instruction) < _MIN_CHARS:
        return Reason.EMPTY_REFLECTION
    if _SIDE.search(instruction):
        return Reason.REFLECTION_NAMES_SIDE
    if _VAGUE.search(instruction):
        return Reason.VAGUE_REFLECTION
    swap = _SWAP.search(instruction)
    if swap and _ARTICLE.sub("", swap[1]).lower() == _ARTICLE.sub("", swap[2]).lower():
        return Reason.CHANGES_NOTHING
    return None


def _share(*parts: object) -> float:
    """A seeded number in [0, 1)."""
    return stable_seed(*parts) / 2**63
