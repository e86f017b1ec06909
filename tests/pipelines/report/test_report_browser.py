"""The page in a real browser: filters, pictures, no errors, and hostile prompts that stay text."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from inference.likeness.likeness import LikenessConfig
from pipelines.report.page import build_report
from schemas.records import PromptRecord
from tests.support.browser import real_browser
from tests.support.invented_run import Invented, invented_run
from tests.support.page_reader import read_page

pytestmark = pytest.mark.slow

HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"> a photo of a star"


def _hostile(index: int, prompt: PromptRecord) -> PromptRecord:
    return replace(prompt, text=HOSTILE) if index == 2 else prompt


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with real_browser() as launched:
        yield launched


def test_a_visitor_filters_looks_closer_and_sees_no_error(browser, tmp_path: Path) -> None:
    folder, config = invented_run(tmp_path / "run", Invented(num_prompts=48, quarantine_every=17, rewrite=_hostile))
    path = Path(build_report(folder, config))
    cards = read_page(path.read_text(encoding="utf-8"))
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.append(request.url) if "//" in request.url[:9] else None)
    page.goto(path.as_uri())
    problems[:] = [problem for problem in problems if not problem.startswith("file:")]

    assert page.locator("article.card").count() == len(cards.pairs) + len(cards.prompts)
    wanted = [card for card in cards.pairs if card["tag"] == "counting"]
    page.get_by_label("Tag").select_option("counting")
    page.locator("#outcome").get_by_text("Pairs").click()
    assert page.locator("article.pair:visible").count() == len(wanted) > 0
    assert page.locator("article.card:visible").count() == len(wanted)
    page.wait_for_function("[...document.querySelectorAll('article.pair .frame img')].every(i => i.complete)")
    shown = page.locator("article.pair .frame img").evaluate_all("images => images.map(i => i.naturalWidth)")
    assert shown == [32] * (2 * len(wanted))

    boxes = page.locator("article.pair").first.locator(".bad .box")
    assert boxes.count() == len(wanted[0]["bad"]["objects"])
    assert boxes.first.is_visible()
    page.get_by_text("Boxes", exact=True).click()
    assert not boxes.first.is_visible()
    assert not page.locator(".bad .masks").first.is_visible()
    page.get_by_text("Masks", exact=True).click()
    assert page.locator(".bad .masks").first.is_visible()

    page.locator("article.pair .good .frame").first.focus()
    page.keyboard.press("Enter")
    assert page.get_by_role("dialog").get_by_text(wanted[0]["good"]["seed"]).is_visible()
    page.keyboard.press("Escape")
    assert not page.get_by_role("dialog").is_visible()

    page.get_by_label("Tag").select_option("")
    page.locator("#outcome").get_by_text("All").click()
    page.get_by_role("searchbox").fill("onerror photo")
    assert page.locator("article.card .prompt").all_inner_texts() == [
        HOSTILE for card in cards.pairs + cards.prompts if card["prompt"] == HOSTILE
    ]
    page.get_by_role("searchbox").fill("no such words")
    assert page.get_by_text("Nothing matches.").is_visible()
    assert page.title() == "run · ReflectionFlow run"
    assert problems == []


@pytest.mark.parametrize("width", [600, 1400])
def test_nothing_sticks_out_sideways(browser, tmp_path: Path, width: int) -> None:
    folder, config = invented_run(tmp_path / "run", Invented(num_prompts=24))
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(Path(build_report(folder, config)).as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_long_galleries_are_drawn_bit_by_bit(browser, tmp_path: Path) -> None:
    folder, config = invented_run(tmp_path / "run", Invented(num_prompts=300, num_candidates=2, unit_size=64))
    path = Path(build_report(folder, config))
    everything = read_page(path.read_text(encoding="utf-8"))
    num_cards = len(everything.pairs) + len(everything.prompts)
    page = browser.new_page()
    page.goto(path.as_uri())
    assert num_cards > 200
    assert page.locator("article.card").count() == 100
    for _ in range(num_cards // 100):
        page.locator("#more").click()
    assert page.locator("article.card").count() == num_cards
    assert not page.locator("#more").is_visible()


def test_pairs_are_put_in_the_order_of_their_likeness(browser, tmp_path: Path) -> None:
    near = Invented(num_prompts=16, settings=lambda config: replace(config, likeness=LikenessConfig("pixels")))
    path = Path(build_report(*invented_run(tmp_path / "run", near)))
    likeness = [card["likeness"] for card in read_page(path.read_text(encoding="utf-8")).pairs]
    page = browser.new_page()
    page.goto(path.as_uri())
    for order, wanted in (("most", sorted(likeness, reverse=True)), ("least", sorted(likeness))):
        page.get_by_label("Order").select_option(order)
        hints = page.locator("article.card").locator(".arrow > .hint").all_inner_texts()
        assert [hint.rpartition("likeness ")[2] for hint in hints] == [f"{value:.2f} by pixels" for value in wanted]
    page.goto(Path(build_report(*invented_run(tmp_path / "other", Invented(num_prompts=8)))).as_uri())
    assert not page.get_by_label("Order").is_visible()
