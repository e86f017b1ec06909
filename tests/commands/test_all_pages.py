"""Every kind of page alike: nothing from elsewhere, text that stays text, pictures with words, keys, narrow, dark."""

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.all_pages import KINDS, Made, make_page
from tests.support.browser import real_browser
from tests.support.page_reader import read_page


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Made]:
    return {kind: make_page(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with real_browser() as launched:
        yield launched


CUT_LABELS = """all => all.flatMap((one) => {
  const frame = one.getBoundingClientRect();
  return [...one.querySelectorAll(".label")].filter((label) => {
    const { left, right } = label.getBoundingClientRect();
    return right > left && (left < frame.left - 1 || right > frame.right + 1);
  }).map((label) => label.textContent);
})"""


def _templates() -> list[Path]:
    return [path for path in Path("pipelines/report").glob("*.html.j2") if path.name not in PARTS]


PARTS = ("shell.html.j2", "parts.html.j2")


def test_every_template_is_of_the_shell_and_no_other_page_is_written():
    assert len(_templates()) >= 5
    assert all(path.read_text().startswith('{% extends "shell.html.j2" %}') for path in _templates())
    sources = [path for top in ("schemas", "inference", "trainers", "pipelines", "microworld", "recipes", "commands")
               for path in Path(top).rglob("*.py")]  # fmt: skip
    assert [path for path in sources if "<html" in path.read_text(encoding="utf-8").lower()] == []


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_comes_from_elsewhere_and_nothing_of_a_prompt_is_markup(pages, kind):
    page = read_page(pages[kind].path.read_text(encoding="utf-8"))
    (script,) = [script for script in page.scripts if script.kind != "application/json"]
    (policy,) = [value for _, name, value in page.attributes if name == "content" and "default-src" in value]
    digest = base64.b64encode(hashlib.sha256(script.text.encode()).digest()).decode()
    assert policy.startswith(
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    )
    assert not [entry for entry in page.attributes if entry[1].startswith("on")]
    links = [(name, value) for _, name, value in page.attributes if name in ("src", "href", "srcset", "action")]
    assert links
    assert not [value for _, value in links if ":" in value and not value.startswith("data:")]
    assert not [value for name, value in links if name == "src" and not value.startswith("data:image/")]
    alts = [value for tag, name, value in page.attributes if (tag, name) == ("img", "alt")]
    assert len(alts) == page.tags.count("img")
    assert all(alts)
    assert ("meta", "content", "light dark") in page.attributes


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_visitor_of_any_page(browser, pages, kind, scheme):
    made = pages[kind]
    page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request", lambda request: problems.append(request.url) if request.url.startswith(("http", "ftp")) else None
    )
    page.goto(made.path.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator(".overlay").evaluate_all(CUT_LABELS) == []
    body = " ".join(page.locator("body").inner_text().split())
    for text in made.shown:
        assert " ".join(text.split()) in body
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in background.removeprefix("rgb(").removesuffix(")").split(",")) / 3
    assert (brightness < 60) == (scheme == "dark")
    images = page.locator("main img")
    assert images.count() > 0
    page.wait_for_function("[...document.querySelectorAll('main img')].every(i => i.complete)")
    assert images.evaluate_all("all => all.every(one => one.alt && one.complete && one.naturalWidth > 0)")
    page.set_viewport_size({"width": 1300, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= 1300

    # Keys alone: a picture opens, the arrows walk, Escape closes, and the focus is where one looked last.
    first = page.locator("main button.look").first
    first.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    place = page.locator("#place")
    number = page.locator("main button.look:visible").count()
    assert place.inner_text() == f"1 of {number}"
    seen = {page.locator("#viewer-body img").get_attribute("src")}
    for _ in range(min(number - 1, 3)):
        page.keyboard.press("ArrowRight")
        seen.add(page.locator("#viewer-body img").get_attribute("src"))
    assert place.inner_text() == f"{min(number, 4)} of {number}"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert place.inner_text() == f"1 of {number}"
    assert len(seen) > 1
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate(
        "document.getElementById('viewer').scrollWidth <= document.getElementById('viewer').clientWidth"
    )
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert first.evaluate("button => button === document.activeElement")
    assert page.title() != "owned"
    assert problems == []
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name", "value", "items"),
    [
        ("report", "tag", "counting", "article.card"),
        ("report", "outcome", "rejected", "article.card"),
        ("report", "tag", "(none)", "article.card"),
        ("search", "outcome", "mended", "[data-item]"),
        ("search", "tag", "no tag", "[data-item]"),
        ("geneval2", "verdict", "right", "[data-item]"),
        ("commonsense", "verdict", "right", "[data-item]"),
        ("commonsense", "category", "Daily <i>Items</i>", "[data-item]"),
        ("concepts", "status", "failed", "[data-item]"),
    ],
)
def test_filters_stay_in_the_address(browser, pages, kind, name, value, items):
    page = browser.new_page(viewport={"width": 1300, "height": 900})
    address = pages[kind].path.as_uri()
    page.goto(address)
    everything = page.locator(f"{items}:visible").count()
    control = page.locator(f"[name={name}]")
    if control.first.get_attribute("type") == "radio":
        page.locator(f"label:has([name={name}][value={value}])").click()
    else:
        control.select_option(value)
    some = page.locator(f"{items}:visible").count()
    assert 0 < some < everything
    chosen = page.evaluate("location.href")  # what playwright has heard of it may be late
    assert f"#{name}=" in chosen
    again = browser.new_page(viewport={"width": 1300, "height": 900})
    again.goto(chosen)
    assert again.locator(f"{items}:visible").count() == some
    again.get_by_role("searchbox").fill("no such words")
    assert again.get_by_text("Nothing matches.").is_visible()
    again.get_by_role("searchbox").fill("")
    assert again.evaluate("location.href") == chosen
    again.goto(f"{address}#words")  # a place on the page is no filter
    assert again.locator(f"{items}:visible").count() == some
    again.goto(f"{address}#{name}=nobody-has-this")
    assert again.locator(f"{items}:visible").count() == everything
    page.close()
    again.close()
