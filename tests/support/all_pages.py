"""A page of every kind, made by the code that makes it, of rows and results that are written here instead of drawn."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from commands.made_by import MadeBy
from commands.reflect_page import folder_names, write_page, write_pictures
from inference.dual.concept import QuestionAnswer, concept_of
from inference.judges.commonsense_t2i import CommonsensePair
from inference.judges.description_judge import Verdict
from inference.search import Draft, SearchTrace
from pipelines import commonsense_t2i, geneval2
from pipelines.distill import ConceptOutcome, Status, distill_folder
from pipelines.evaluation import Evaluation, budgets_of, searched, summarise
from pipelines.report import commonsense_page, geneval2_page, search_page
from pipelines.report.page import build_report
from pipelines.search_job import SearchJobConfig
from recipes import catalogue
from schemas.images import encode_png
from schemas.records import AtomValue, Candidate, Check, PromptRecord, PromptRow, Question, SearchStep
from schemas.storage import LocalStorage
from tests.support.invented_run import Invented, invented_run
from trainers.concept_card import write_card
from trainers.distilled import Distilled, Evaluated, Fooled, Look, Point
from trainers.referee import RefereeConfig

HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"> " + "w" * 120 + " a photo of a star"
RING = AtomValue("object", "a <i>ring</i>", 0.9)
RED = AtomValue("color", "red", 0.2, "Draw <b>it</b> red.")
KINDS = ("report", "search", "unjudged", "geneval2", "commonsense", "reflect", "reflect-many", "concepts")


@dataclass(frozen=True)
class Made:
    """path: of the page. shown: texts that a reader must find, the hostile one among them."""

    path: Path
    shown: tuple[str, ...]


def make_page(kind: str, folder: Path) -> Made:
    """One of `KINDS`, in a folder that is there."""
    makers = {
        "report": _report,
        "search": lambda folder: _search(folder, is_judged=True),
        "unjudged": lambda folder: _search(folder, is_judged=False),
        "geneval2": _geneval2,
        "commonsense": _commonsense,
        "reflect": lambda folder: _reflect(folder, [HOSTILE]),
        "reflect-many": lambda folder: _reflect(folder, ["a photo of a ring", HOSTILE, "two cats"]),
        "concepts": _concepts,
    }
    return makers[kind](folder)


def pixels(seed: int, size_px: int = 32) -> np.ndarray:
    """uint8 (H, W, 3): a square on a plain ground."""
    rng = np.random.default_rng(seed)
    image = np.full((size_px, size_px, 3), rng.integers(180, 256, 3), np.uint8)
    x, y = rng.integers(0, size_px // 2, 2)
    image[y : y + size_px // 2, x : x + size_px // 2] = rng.integers(0, 160, 3)
    return image


def _report(folder: Path) -> Made:
    def rewrite(index: int, prompt: PromptRecord) -> PromptRecord:
        text = f"{HOSTILE} {index}" if index % 5 == 0 else prompt.text
        return replace(prompt, text=text, tag=None if index % 7 == 0 else prompt.tag)

    run, config = invented_run(folder / "run", Invented(num_prompts=48, quarantine_every=17, rewrite=rewrite))
    return Made(Path(build_report(run, config)), (HOSTILE, "no tag", "paired by the check"))


def _search(folder: Path, *, is_judged: bool) -> Made:
    config = catalogue.load("micro", "search")
    assert isinstance(config, SearchJobConfig)
    config = replace(config, search=replace(config.search, width=1, depth=4))
    rows = [_searched_row(number, is_judged) for number in range(8)]
    found = Evaluation([searched(row, config) for row in rows], num_unfinished=1, is_judged=is_judged)
    films = search_page.Filmstrips()
    for row in rows:
        films.add(row, searched(row, config).chosen(4))
    run, _ = invented_run(folder / "run", Invented(num_prompts=4, num_units_done=0))
    summary = summarise(found, config, budgets_of(config))
    page = search_page.render_page(run, config, summary, films.by_turns())
    (folder / "index.html").write_bytes(page)
    return Made(folder / "index.html", (HOSTILE, "from image 0: Draw <b>it</b> red.", "2 of 3 hold"))


def _searched_row(number: int, is_judged: bool) -> PromptRow:
    prompt = HOSTILE if number == 2 else f"a photo of {number + 1} rings"
    rights = [(False, False, True), (True, True, True), (False, False, False), (False, True, False)][number % 4]

    def candidate(index: int) -> Candidate:
        png = encode_png(pixels(10 * number + index, 32 if number < 4 else 300))
        step = SearchStep(
            round=index,
            chain=0,
            score=(0.1, 0.5, 0.9)[index],
            parent=0 if index == 1 else None,
            reflection="Draw <b>it</b> red." if index == 1 else None,
            restart="edits" if index == 2 else None,
            atoms=(RING, RED, AtomValue("count", "many", 0.8)),
        )
        check = Check(rights[index], 1.0, () if rights[index] else ("no <ring> found",)) if is_judged else None
        side = 32 if number < 4 else 300
        return Candidate(index, index, prompt, 2, side, side, "", png, check, search=step)

    record = PromptRecord(f"p{number}", prompt, "rule", "position<b>" if number % 2 else None)
    return PromptRow(record, candidates=tuple(map(candidate, range(3))))


def _geneval2(folder: Path) -> Made:
    rows, lines, files = [], [], {}
    for number in range(6):
        questions = tuple(
            Question(f"Is there <b>thing</b> {i}?", "Yes", skill=("object", "count", "")[i % 3])
            for i in range(2 + number % 2)
        )
        rows.append(geneval2.Row(number, number, HOSTILE if number == 1 else f"prompt {number}", questions, 2))
        files[f"{number}.png"] = folder / f"{number}.png"
        files[f"{number}.png"].write_bytes(encode_png(pixels(number)))
        chances = [0.9, 0.8 if number % 2 else 0.1, 0.7][: len(questions)]
        lines.append(geneval2.result_line(rows[-1], f"{number}.png", chances))
    summary = geneval2.summarise(lines, "a <judge>") | {"skipped": {"x": "y"}}
    (folder / "index.html").write_bytes(geneval2_page.render_page(summary, lines, files))
    return Made(folder / "index.html", (HOSTILE, "a <judge>", "Is there <b>thing</b> 1?"))


def _commonsense(folder: Path) -> Made:
    pairs = [
        CommonsensePair(
            (HOSTILE if number == 1 else f"a lamp {number} with electricity", f"a lamp {number} without electricity"),
            ("The <b>lamp</b> is lit", "The lamp is unlit"),
            ("Daily <i>Items</i>", "Physical Laws")[number % 2],
            "5" if number else "",
        )
        for number in range(4)
    ]
    expanded = [("a bright <b>lamp</b>", "a dark lamp")] * len(pairs)
    rows = [
        commonsense_t2i.Condition("base", folder / "base", [pair.prompts for pair in pairs]),
        commonsense_t2i.Condition("expanded", folder / "expanded", expanded, "base"),
    ]
    fits = [(True, False), (False, True), (True, True), (False, False), (None, False)]
    lines, files = [], {}
    for row in rows:
        for number in range(1, len(pairs) + 1):
            for side in commonsense_t2i.SIDES:
                for image in range(1, 5):
                    path = commonsense_t2i.image_path(row.folder, number, side, image)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(encode_png(pixels(10 * number + 4 * side + image, 32 if number < 3 else 300)))
    for row in rows:
        for one in commonsense_t2i.find_images(row, pairs, folder)[0]:
            is_known = one.condition == "expanded" or one.pair == 1
            said = fits[one.side - 1] if is_known else fits[(one.pair + one.side + one.image) % len(fits)]
            line = commonsense_t2i.result_line(one, Verdict(said, ("1", "<b>0</b>")))
            lines.append(commonsense_t2i.with_rule(one, line, 0))
            files[one.name] = one.path
    summary = commonsense_t2i.summarise(rows, pairs, lines, "a <judge>") | {"skipped": ["x: y"]}
    (folder / "index.html").write_bytes(commonsense_page.render_page(summary, pairs, lines, files))
    return Made(folder / "index.html", (HOSTILE, "a <judge>", "The <b>lamp</b> is lit", "a bright <b>lamp</b>"))


def _reflect(folder: Path, prompts: list[str]) -> Made:
    config = catalogue.load("micro", "search").tools
    made_by = MadeBy.of("reflect", [*prompts], "micro", config)
    told = []
    for number, prompt in enumerate(prompts):
        drafts = [
            Draft(
                number=i,
                round=i // 2,
                chain=i % 2,
                seed=7 * i,
                prompt=prompt,
                image=pixels(20 * number + i),
                score=0.1 * i,
                atoms=(RING, RED),
            )
            for i in range(6)
        ]
        drafts[2] = replace(drafts[2], reflection="Draw <b>it</b> red.", parent=0, prompt="refined <b>words</b>")
        name = folder_names(prompts)[number]
        told.append(write_pictures(SearchTrace(prompt, drafts), folder, name, len(prompts) == 1, made_by, 0))
    write_page(folder, told, len(prompts), made_by)
    return Made(folder / "index.html", (HOSTILE, "from image 0: Draw <b>it</b> red.", "refined <b>words</b>"))


def _concepts(folder: Path) -> Made:
    config = replace(catalogue.load("micro", "dual_process"), referee=RefereeConfig("<b>second</b>/vlm"))
    looks = (Look(0, (0.2, 0.2), (0.1, 0.1)), Look(20, (0.9, 0.9), (0.8, 0.1)))
    questions = [QuestionAnswer("Is it <b>red</b>?"), QuestionAnswer(HOSTILE)]
    out, files = folder / "out", folder / "concepts"
    files.mkdir()
    outcomes = []
    became: list[tuple[str, float, Status]] = [
        ("sunrise", 0.9, "learnt"),
        ("dusk", 0.4, "not learnt"),
        ("fog", 0.2, "fooled"),
    ]
    for name, after, status in became:
        (files / f"{name}.yaml").write_text(f"name: {name}\nprompt: p\nqa_pairs: [{{question: q}}]\n")
        images = np.stack([pixels(i) for i in range(4)])
        before = Evaluated(images, np.full((4, 2), 0.2))
        taught = Evaluated(images[::-1], np.full((4, 2), after))
        curve = tuple(Point(step, 1 - step / 20, step / 20, 0) for step in range(20))
        concept = concept_of(name, HOSTILE, questions)
        (out / name).mkdir(parents=True)
        fooled = Fooled("<b>why</b>", 20, 0, 1, images) if status == "fooled" else None
        why = "" if status == "learnt" else "the answers did not rise"
        write_card(out / name, Distilled(concept, "key", curve, before, taught, why, 3.0, looks, fooled), config)
        card = json.loads((out / name / "card.json").read_text())
        outcomes.append(
            ConceptOutcome(name, str(files / f"{name}.yaml"), status, "", card["probability_before"], after, 3.0)
        )
    outcomes.append(ConceptOutcome("<b>broken</b>", "x.yaml", "failed", "no <question>"))
    distill_folder(files, LocalStorage(out), lambda files: outcomes, lambda outcome: None)
    return Made(
        out / "index.html", (HOSTILE, "<b>broken</b>: failed", "no <question>", "by the referee <b>second</b>/vlm")
    )
