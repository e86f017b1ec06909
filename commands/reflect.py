"""`python -m inference reflect "a photo of a red star left of a blue ring"`: a search, live, of one prompt or more."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from commands.arguments import Preset, parse_with_preset
from commands.made_by import MadeBy
from commands.quoted import known_prompt, several_prompts
from commands.reflect_page import Told, folder_names, write_page, write_pictures
from inference.model_store import require_models
from inference.prompt_grammar import told_or_free
from inference.required_servers import require_servers
from inference.requirements.atoms import failing
from inference.requirements.reader import RequirementsConfig, read_requirements
from inference.routes import load_routes
from inference.search import Draft, SearchConfig, SearchTools, SearchTrace, next_round
from inference.search_tools import SearchToolsConfig
from inference.vlm.first_word_probe import probe_first_words
from inference.vlm.prompts import load_prompt
from inference.vlm.vlm import VlmConfig
from pipelines.prompts.judgeable import Asked
from pipelines.prompts.read_prompts import Known, numbered_prompts
from pipelines.prompts.vocabulary import load_vocabulary
from pipelines.runtime.progress import format_seconds
from pipelines.search_job import check_choosing
from recipes import catalogue
from schemas.configuration import model_names, template_names
from schemas.errors import InputError
from schemas.new_file import new_folder, short_name
from schemas.plain_text import one_line
from schemas.records import Cost, PromptRecord
from schemas.telling import loading
from schemas.terminal import say

REFLECTED = Path("reflected")
"""Where a call without --out makes its folder; git ignores it."""
LIVE_DEPTH = 4
"""Rounds that somebody waits for: a preset's own number is for searches over many prompts."""


@dataclass(frozen=True)
class ReflectArgs:
    """Draw an image, say what is wrong with it, draw again; the best of all rounds by the verifier is the answer. Of
    several prompts one page is made."""

    prompt: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """What the image should show, in any words; several are several searches."""
    prompts: Path | None = None
    """More prompts, from a file: lines of text (.txt), or of JSON with what they require (.jsonl)."""
    out: Path | None = None
    """Folder, a new or an empty one: index.html, and of one prompt best.png, filmstrip.png and made_by.json; of several
    a folder each with these. Without it, a new folder in reflected/, named after the prompt."""
    together: int = 8
    """Prompts that are searched at once; the page is written after each such group."""
    vocabulary: str = "everyday"
    """Whose nouns a prompt may speak of, where its words tell what it requires: everyday, micro, or a JSON file."""
    seed: int = 0
    """Seed of the noise."""
    search: SearchConfig = field(default_factory=lambda: SearchConfig(depth=LIVE_DEPTH))
    preset: Preset = field(default_factory=catalogue.default)
    vlm: VlmConfig = field(default_factory=VlmConfig)
    """Who reflects and verifies."""
    requirements: RequirementsConfig = field(default_factory=RequirementsConfig)
    """Who reads what free prompts ask for, piece by piece."""
    tools: SearchToolsConfig = field(default_factory=SearchToolsConfig)


def default_arguments(preset: str) -> ReflectArgs:
    """What a preset says."""
    job = catalogue.load(preset, "search")
    return ReflectArgs(
        preset=preset,
        vocabulary=job.vocabulary,
        search=replace(job.search, depth=min(job.search.depth, LIVE_DEPTH)),
        vlm=job.vlm,
        requirements=job.requirements,
        tools=job.tools,
    )


def main(argv: Sequence[str]) -> int:
    """0 when the pictures are written."""
    arguments = parse_with_preset(ReflectArgs, argv, "reflect", default_arguments, "inference")
    if arguments.together < 1:
        raise InputError(f"{arguments.together} prompts at once", field="--together", expected="1 or more")
    config = arguments.tools.for_search(arguments.search, arguments.vlm)
    asked = asked_prompts(arguments, model_names(config))
    check_choosing(arguments.tools.verifier, arguments.tools.verifier.kinds, arguments.requirements, asked)
    reading = arguments.requirements.only_what_is_used(arguments.vlm)
    name = short_name(asked[0].record.text, "image") + (f"-and-{len(asked) - 1}-more" if len(asked) > 1 else "")
    made_by = MadeBy.of("reflect", argv, arguments.preset, config, reading, arguments.search)
    with new_folder(arguments.out, REFLECTED, name) as folder:
        for template in dict.fromkeys((*template_names(config), *template_names(reading))):
            load_prompt(template)
        if config.routes:
            load_routes(config.routes)
        require_servers(config, "--tools", arguments.vlm)
        require_servers(reading, "--requirements", arguments.vlm)
        require_models([*model_names(config), *model_names(reading)])
        config.generator.check_sizes()
        probe_first_words(config)
        _search(arguments, asked, config, reading, folder, made_by)
    return 0


def _search(
    arguments: ReflectArgs,
    asked: Sequence[Asked],
    config: SearchToolsConfig,
    reading: RequirementsConfig,
    folder: Path,
    made_by: MadeBy,
) -> None:
    started = time.monotonic()
    with loading(model_names(config)):
        tools = config.open()
        reader = reading.open()
    say(f"models loaded in {time.monotonic() - started:.1f} s")
    search = replace(arguments.search, seed=arguments.seed)
    names = folder_names([one.record.text for one in asked])
    told: list[Told] = []
    started = time.monotonic()
    for start in range(0, len(asked), arguments.together):
        some = asked[start : start + arguments.together]
        records = [(arguments.requirements.told(one.record), Cost()) for one in some]
        if reader is not None:
            records = read_requirements(reader, [one.record for one in some])
        searches = [SearchTrace(record.text, record=record, cost=cost) for record, cost in records]
        for number in range(search.depth):
            _round(searches, number, search, tools, start, len(asked), started)
        told += [
            write_pictures(one, folder, names[start + i], len(asked) == 1, made_by, arguments.seed)
            for i, one in enumerate(searches)
        ]
        write_page(folder, told, len(asked), made_by)
    say(f"{folder / 'index.html'}  ({sum((one.cost for one in told), Cost()).in_words()})")


def asked_prompts(arguments: ReflectArgs, models: Sequence[str]) -> list[Asked]:
    """The prompts of the command line and of its file, each text once. models: who draws, reflects and verifies.
    InputError for an empty one, for none, and for what the models cannot know."""
    known = Known(nouns=load_vocabulary(arguments.vocabulary).known)
    several_prompts(arguments.prompt)
    found = [Asked(told_or_free(prompt, known.nouns)) for prompt in arguments.prompt]
    if arguments.prompts is not None:
        file = str(arguments.prompts)
        found += [Asked(record, file, line) for line, record in numbered_prompts(file, known)]
    if not found:
        raise InputError("no prompt", field="prompt", expected='one or more, or --prompts FILE: "a photo of a ring"')
    found = [replace(one, record=_as_known(one, models)) for one in found]
    once: dict[str, Asked] = {}
    for one in found:
        once.setdefault(one.record.text, one)
    if len(once) < len(found):
        say(f"{len(found) - len(once)} of {len(found)} prompts are there already, and are searched once")
    return list(once.values())


def _as_known(one: Asked, models: Sequence[str]) -> PromptRecord:
    return replace(one.record, text=known_prompt(one.record.text, models, one.file, one.line))


def _round(
    searches: Sequence[SearchTrace],
    number: int,
    search: SearchConfig,
    tools: SearchTools,
    start: int,
    num_prompts: int,
    started: float,
) -> None:
    """Add a round to the searches, and tell what came of it. start: how many prompts are done. started: all of it."""
    begun = time.monotonic()
    next_round(searches, number, search, tools, [one.prompt for one in searches])
    now = time.monotonic()
    for i, one in enumerate(searches):
        best = one.best()
        if num_prompts > 1:
            so_far = f"best so far: image {best.number}, {best.score:.2f}"
            say(f"prompt {start + i + 1} of {num_prompts}, {one_line(one.prompt)[:60]!r}: {so_far}")
        for draft in one.drafts:
            if draft.round == number:
                say(f"  {describe(draft)}")
    took = f"round {number}: {now - begun:.1f} s"
    if num_prompts == 1:
        best = searches[0].best()
        say(f"{took}; best so far: image {best.number}, {best.score:.2f}")
        return
    done = start * search.depth + (number + 1) * len(searches)
    left = (now - started) / done * (num_prompts * search.depth - done)
    say(f"{took}" + (f"; about {format_seconds(left)} to go" if left else ""))


def describe(draft: Draft) -> str:
    """One line of progress."""
    how = f", from image {draft.parent}: {draft.reflection}" if draft.reflection else ""
    wrong = "; ".join(atom.text for atom in failing(draft.atoms))
    return f"image {draft.number}: score {draft.score:.2f}" + (f" (fails: {wrong})" if wrong else "") + how
