"""The page of a CommonsenseT2I evaluation: the table, and each pair's images beside the two descriptions."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inference.judges.commonsense_t2i import CommonsensePair
from pipelines.commonsense_t2i import SIDES, figure_words
from pipelines.report.pictures import data_uri
from schemas.named_file import MAX_IMAGE_BYTES, read_file

MAX_PICTURES = 1200
PICTURE_PX = 160
_CSS = """
body{font:15px/1.45 system-ui,sans-serif;margin:1.5rem auto;max-width:1200px;padding:0 1rem;color:#1c1c1e;
background:#fff}h1,h3{overflow-wrap:anywhere}table{border-collapse:collapse}caption{text-align:left;font-weight:600}
td{padding:.15rem .8rem .15rem 0;border-bottom:1px solid #8884}h3{font-size:15px;margin:.4rem 0}
.tables{display:flex;flex-wrap:wrap;gap:1rem 2.5rem}.small{font-size:12px;color:#888;margin:.2rem 0}
@media (prefers-color-scheme:dark){body{background:#17181a;color:#e8e8ea}}
section{border-top:1px solid #8884;margin:1rem 0;padding:.3rem 0}.side{display:flex;flex-wrap:wrap;gap:.4rem}
.sides{display:grid;grid-template-columns:1fr 1fr;gap:.2rem 1.5rem}figure{margin:0;width:132px;font-size:12px}
figure img{width:100%;box-sizing:border-box;image-rendering:pixelated;display:block;border:3px solid #c33}
figure.ok img{border-color:#2a8f4a}
"""


def render_page(
    summary: Mapping[str, Any],
    pairs: Sequence[CommonsensePair],
    lines: Sequence[Mapping[str, Any]],
    files: Mapping[str, Path],
) -> str:
    """HTML without anything from elsewhere. files: of the lines, by their `filename`. Where there are too many images,
    the first tries of each pair are shown, and then the first pairs."""
    names = list(summary["rows"])
    of_pair: dict[int, list[Mapping[str, Any]]] = {}
    for line in lines:
        of_pair.setdefault(line["pair"], []).append(line)
    a_try = len(SIDES) * len(names)
    tries = max(1, MAX_PICTURES // (a_try * len(of_pair)))
    shown = sorted(of_pair)[: max(1, MAX_PICTURES // a_try)]
    sections = "".join(_pair(number, pairs[number - 1], names, of_pair[number], tries, files) for number in shown)
    skipped = f" {len(summary['skipped'])} faults are left out." if "skipped" in summary else ""
    tables = "".join(
        _table(f"{name}, 95 %", {"all": row["all"]} | row["by_category"]) for name, row in summary["rows"].items()
    )
    tables += "".join(
        _table(f"{name} − {row['against']}", {"all": row["all"]} | row["by_category"])
        for name, row in summary["changes"].items()
    )
    figures = ", ".join(f"{html.escape(name)} {row['all'][0]:.1f}" for name, row in summary["rows"].items())
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>CommonsenseT2I</title>
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<style>{_CSS}</style>
<h1>CommonsenseT2I: {figures}</h1>
<p>{summary["num_pairs"]} pairs, {len(lines)} images, judged by <b>{html.escape(summary["judge"])}</b>;
figures of other judges cannot be compared with these. In % of tries with both images right, averaged over pairs.
{skipped}</p><div class=tables>{tables}</div>
<h2>Pairs</h2>
<p>Green: the image supports its own description. Below it: which of the two it fits (1: the left one, 2: the right
one), and which it was given to where it fits both.</p>{sections}
<p>{_left_out(len(of_pair) - len(shown), tries, lines)}</p></html>"""


def _table(title: str, scores: Mapping[str, Sequence[float | None]]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{figure_words(found, '.1f')}</td></tr>" for name, found in scores.items()
    )
    return f"<table><caption>{html.escape(title)}</caption>{rows}</table>"


def _left_out(num_pairs: int, tries: int, lines: Sequence[Mapping[str, Any]]) -> str:
    more = f"{num_pairs} more pairs" if num_pairs else ""
    if len({line["image"] for line in lines}) > tries:
        more += f"{' and ' if more else ''}more images of each pair"
    return f"{more[:1].upper()}{more[1:]} are in results.jsonl." if more else ""


def _pair(
    number: int,
    pair: CommonsensePair,
    names: Sequence[str],
    lines: Sequence[Mapping[str, Any]],
    tries: int,
    files: Mapping[str, Path],
) -> str:
    heads = "".join(
        f"<div><h3>{html.escape(pair.prompts[side - 1])}</h3>{html.escape(pair.descriptions[side - 1])}</div>"
        for side in SIDES
    )
    rows = ""
    for name in names:
        mine = [line for line in lines if line["row"] == name]
        sides = ""
        for side in SIDES:
            drawn = [line for line in mine if line["side"] == side][:tries]
            prompt = next((line["prompt"] for line in drawn), "")
            said = html.escape(name) + (f": {html.escape(prompt)}" if prompt != pair.prompts[side - 1] else "")
            figures = "".join(_figure(line, files[line["filename"]]) for line in drawn)
            sides += f"<div><p class=small>{said}</p><div class=side>{figures}</div></div>"
        rows += sides
    likelihood = f", likelihood {html.escape(pair.likelihood)}" if pair.likelihood else ""
    return (
        f"<section><p class=small>pair {number}, {html.escape(pair.category)}{likelihood}</p>"
        f"<div class=sides>{heads}{rows}</div></section>"
    )


def _figure(line: Mapping[str, Any], file: Path) -> str:
    image = data_uri(read_file(file, MAX_IMAGE_BYTES), PICTURE_PX)
    said = verdict_words(line)
    title = html.escape(f"{line['filename']}: {' / '.join(text for text in line['said'] if text)}", quote=True)
    return (
        f'<figure class="{"ok" if line["correct"] else "no"}" title="{title}">'
        f'<img alt="" loading="lazy" src="{image}">{said}</figure>'
    )


def verdict_words(line: Mapping[str, Any]) -> str:
    """ "fits both, given to 2"."""
    fits = (line["fits1"], line["fits2"])
    if None in fits:
        return "answer not understood"
    words = {(True, True): "fits both", (True, False): "fits 1", (False, True): "fits 2"}.get(fits, "fits neither")
    return f"{words}, given to {line['supports']}" if line["by_chance"] else words
