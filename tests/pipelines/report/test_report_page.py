"""The page of pictures: safe with any text, bounded, the same every time, and never in the way of an unfinished run."""

import base64
import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.conservation import tally
from pipelines.garbage import collect_garbage
from pipelines.jobs import DatasetConfig, resolve_chains
from pipelines.report.gather import ReportLimits
from pipelines.report.page import PAGE_PATH, build_report
from pipelines.run_folder import RunFolder
from schemas.records import PromptRecord
from tests.support.invented_run import Invented, invented_run
from tests.support.page_reader import Page, read_page

Run = tuple[RunFolder, DatasetConfig]
HOSTILE = (
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    '"><img src=x onerror=alert(3)>',
    "<!--<script>",
    "{{ 7 * 7 }} ]]> &lt; ' \u2028",
)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, DatasetConfig]:
    """A finished run that no test changes."""
    return invented_run(tmp_path_factory.mktemp("whole") / "run", Invented(num_prompts=24, quarantine_every=9))


def _page(folder: RunFolder, config: DatasetConfig, limits: ReportLimits | None = None) -> Page:
    return read_page(Path(build_report(folder, config, limits)).read_text(encoding="utf-8"))


def _hostile(index: int, prompt: PromptRecord) -> PromptRecord:
    return replace(prompt, text=f"{HOSTILE[index % len(HOSTILE)]} {prompt.text}", tag=f"{prompt.tag}<b onclick=x>")


def test_no_text_of_a_run_becomes_markup(tmp_path: Path, whole_run: Run) -> None:
    plain = _page(*whole_run)
    hostile = Invented(num_prompts=24, quarantine_every=9, rewrite=_hostile)
    folder, config = invented_run(tmp_path / "<img src=x>", hostile)
    folder.info.intake["rule"]["<script>alert(4)</script>"] = "<script>alert(5)</script>"
    folder.info.digests["</style><script>alert(6)</script>"] = "0"
    page = _page(folder, config)

    executable = [script for script in page.scripts if script.kind != "application/json"]
    own = [Path(f"pipelines/report/{name}.js").read_text(encoding="utf-8") for name in ("shell", "page")]
    assert [script.text for script in executable] == ["\n".join(own)]
    assert [s.name for s in page.scripts] == [s.name for s in plain.scripts]
    # A list more of facts and models, and nothing else: not one element or attribute out of a prompt.
    more = Counter(page.tags) - Counter(plain.tags)
    assert set(more) <= {"dt", "dd", "code", "tr", "th", "td", "span", "i", "g", "rect", "text", "title", "li", "b"}
    assert not [entry for entry in page.attributes if entry[1].startswith("on") or entry[2].startswith("javascript")]
    # And nothing was lost on the way: what the script will show is what was asked for.
    asked = {row.prompt.text for row in folder.all_prompts()}
    shown = {card["prompt"] for card in page.pairs + page.prompts}
    assert shown == asked
    assert "<script>alert(5)</script>" in page.text


def test_the_policy_allows_just_the_pages_own_script_and_no_network(whole_run: Run) -> None:
    page = _page(*whole_run)
    (policy,) = [value for _, name, value in page.attributes if name == "content" and "default-src" in value]
    digest = base64.b64encode(hashlib.sha256(page.scripts[-1].text.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert not [entry for entry in page.attributes if entry[2].startswith(("http:", "https:", "//"))]


def test_the_page_counts_what_status_counts(whole_run: Run) -> None:
    folder, config = whole_run
    page, counts = _page(folder, config), tally(folder, config)
    assert len(page.pairs) == counts.pairs["shipped"]
    assert Counter(card["outcome"] for card in page.prompts) == {
        "rejected": counts.prompts["rejected"],
        "quarantined": counts.prompts["quarantined"],
    }
    for reason, count in counts.reasons.items():
        assert f"{reason.replace('_', ' ')} {count} " in page.visible
    assert "RuntimeError: detector gave NaN boxes" in page.island("cards")["prompts"][0]["trace"]


def test_images_boxes_and_masks_of_a_pair_are_those_of_its_candidates(whole_run: Run) -> None:
    folder, config = whole_run
    page = _page(folder, config)
    card = page.pairs[0]
    steps = resolve_chains(folder, config)["rule"]
    _, rows = folder.read_block(steps[-1].name, steps[-1].key, card["unit"])
    (row,) = [row for row in rows if row.prompt.prompt_id == card["prompt_id"]]
    for side in ("good", "bad"):
        shown = card[side]
        candidate = row.candidates[shown["index"]]
        assert candidate.check is not None
        assert shown["correct"] is candidate.check.correct is (side == "good")
        assert [tuple(found["box"]) for found in shown["objects"]] == [o.box for o in candidate.check.objects]
        assert all(found["outline"].startswith("M") for found in shown["objects"])
        island, index = shown["uri"]
        assert page.island(f"images-{island}")[index].startswith("data:image/png;base64,")


def test_the_same_run_gives_the_same_page(whole_run: Run) -> None:
    folder, config = whole_run
    first = Path(build_report(folder, config)).read_bytes()
    assert Path(build_report(folder, config)).read_bytes() == first


def test_a_limit_on_pairs_keeps_every_tag(tmp_path: Path) -> None:
    folder, config = invented_run(tmp_path / "run", Invented(num_prompts=40))
    everything = _page(folder, config)
    tags = {card["tag"] for card in everything.pairs}
    page = _page(folder, config, ReportLimits(max_pairs=len(tags), max_rejected=3))
    assert len(everything.pairs) > len(tags)
    assert sorted(card["tag"] for card in page.pairs) == sorted(tags)
    assert sum(card["outcome"] == "rejected" for card in page.prompts) == 3
    assert f"{len(tags)} of {len(everything.pairs)} pairs" in page.visible


@pytest.mark.parametrize("size_px", [32, 200])
def test_the_page_gives_up_pairs_before_it_grows_too_large(tmp_path: Path, size_px: int) -> None:
    folder, config = invented_run(tmp_path / "run", Invented(num_prompts=3200 // size_px, size_px=size_px))
    pairs_alone = ReportLimits(max_rejected=0, max_quarantined=0)
    whole = Path(build_report(folder, config, pairs_alone)).read_bytes()
    all_pairs = len(read_page(whole.decode()).pairs)
    limit = len(whole) * 4 // 5
    path = Path(build_report(folder, config, replace(pairs_alone, max_bytes=limit)))
    assert limit * 0.6 < path.stat().st_size <= limit
    page = read_page(path.read_text(encoding="utf-8"))
    assert 0 < len(page.pairs) < all_pairs
    assert f"{len(page.pairs)} of {all_pairs} pairs" in page.visible


def test_an_unfinished_run_says_so_and_shows_what_is_there(tmp_path: Path) -> None:
    page = _page(*invented_run(tmp_path / "run", Invented(num_prompts=24, num_units_done=2)))
    assert "Unfinished. 8 of 24 prompts are pending" in page.visible
    assert page.pairs
    assert "generate candidates rule 2 / 3" in page.visible


def test_a_run_that_has_not_begun_has_a_page(tmp_path: Path) -> None:
    page = _page(*invented_run(tmp_path / "run", Invented(num_units_done=0)))
    assert "24 of 24 prompts are pending" in page.visible
    assert page.pairs == page.prompts == []


def test_a_run_without_a_pair_shows_why(tmp_path: Path) -> None:
    page = _page(*invented_run(tmp_path / "run", Invented(num_prompts=8, share_right=1.0)))
    assert page.pairs == []
    assert {card["reason"] for card in page.prompts} == {"all_correct"}
    assert "0 of 0 pairs, 8 of 8 rejected prompts" in page.visible


def test_images_that_gc_removed_are_missing_and_nothing_else_is(tmp_path: Path) -> None:
    folder, config = invented_run(tmp_path / "run")
    before = _page(folder, config)
    collect_garbage(folder, config, keep="paired")
    after = _page(folder, config)
    assert after.pairs == before.pairs
    assert len(after.prompts) == len(before.prompts)
    assert {picture["uri"] for card in after.prompts for picture in card["pictures"]} == {None}


def test_a_block_that_does_not_read_is_left_out_with_a_note(tmp_path: Path) -> None:
    folder, config = invented_run(tmp_path / "run")
    drawing, _, pairing = resolve_chains(folder, config)["rule"]
    for step, unit in ((pairing, 1), (drawing, 2)):
        path = tmp_path / "run" / folder.block_path(step.name, step.key, unit)
        path.write_bytes(path.read_bytes()[:-100])
    (tmp_path / "run" / "stats" / "broken-1-0-0000.json").write_text("[{")
    page = _page(folder, config)
    assert "unit 1: its block of select_pairs does not read" in page.visible
    assert "unit 2: the images of generate_candidates do not read" in page.visible
    assert "stats/broken-1-0-0000.json does not read" in page.visible
    assert {card["unit"] for card in page.pairs} <= {0, 2}
    assert all(card["good"]["uri"] is None for card in page.pairs if card["unit"] == 2)
    assert "8 of 24 prompts are pending" in page.visible


def test_the_rate_divides_the_images_of_timed_units_by_their_seconds(tmp_path: Path) -> None:
    folder, config = invented_run(tmp_path / "run", Invented(num_prompts=24, num_candidates=6))
    folder.storage.delete("stats/invented-1-0-0002.json")  # what a kill loses: its images must not count either
    assert "144 1,152 – 4.0 s 24.0 images/s" in _page(folder, config).visible


def test_the_page_lies_in_the_run_folder(tmp_path: Path) -> None:
    folder, config = invented_run(tmp_path / "run", Invented(num_prompts=8))
    assert build_report(folder, config) == f"{tmp_path}/run/{PAGE_PATH}"
    assert folder.storage.size(PAGE_PATH)
