"""The page of a GenEval 2 evaluation: the scores, and pictures with the probability of each expected answer."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.report.pictures import data_uri
from schemas.named_file import MAX_IMAGE_BYTES, read_file

MAX_PICTURES = 1000
PICTURE_PX = 256


def render_page(summary: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], files: Mapping[str, Path]) -> str:
    """HTML without anything from elsewhere. files: of the lines, by their `filename`."""
    pictures = "".join(_picture(line, files[line["filename"]]) for line in lines[:MAX_PICTURES])
    more = f"<p>{len(lines) - MAX_PICTURES:,} more images are in results.jsonl.</p>" * (len(lines) > MAX_PICTURES)
    skipped = f"{len(summary['skipped'])} left out." if "skipped" in summary else ""
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>GenEval 2</title>
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<style>{_CSS}</style>
<h1>GenEval 2: Soft-TIFA {summary["soft_tifa_gm"][0]:.1f}</h1>
<p>{summary["num_prompts"]} prompts, {summary["num_images"]} images, {summary["num_questions"]} questions, judged by
<b>{html.escape(summary["judge"])}</b>; scores of other judges cannot be compared with these. {skipped}</p>
<div class=tables>{_table("Soft-TIFA, 95 %", {"GM": summary["soft_tifa_gm"], "AM": summary["soft_tifa_am"]})}
{_table("AM by skill", summary["am_by_skill"])}{_table("GM by atoms", summary["gm_by_atom_count"])}</div>
<h2>Images</h2>
<p>Behind each question stands how probable its expected answer is.</p>
<div class=grid>{pictures}</div>{more}</html>"""


_CSS = """
body{font:15px/1.45 system-ui,sans-serif;margin:1.5rem auto;max-width:1200px;padding:0 1rem;color:#1c1c1e;
background:#fff}h1,h3,li{overflow-wrap:anywhere}table{border-collapse:collapse}caption{text-align:left;font-weight:600}
td{padding:.15rem .8rem .15rem 0;border-bottom:1px solid #8884}.tables{display:flex;flex-wrap:wrap;gap:1rem 2.5rem}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(256px,100%),1fr));gap:1.5rem 1rem}
article img{width:100%;max-width:256px;image-rendering:pixelated;display:block}h3{font-size:15px;margin:.4rem 0}
ul{margin:0;padding:0;list-style:none;font-size:13px}li{padding:.1rem 0}li b{display:inline-block;min-width:2.4rem}
.no b{color:#c33}.ok b{color:#2a8f4a}.small{font-size:12px;color:#888;margin:.2rem 0;overflow-wrap:anywhere}
@media (prefers-color-scheme:dark){body{background:#17181a;color:#e8e8ea}}
"""


def _table(title: str, scores: Mapping[str, Sequence[float]]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{value:.1f}</td><td>{low:.1f} to {high:.1f}</td></tr>"
        for name, (value, low, high) in scores.items()
    )
    return f"<table><caption>{title}</caption>{rows}</table>"


def _picture(line: Mapping[str, Any], file: Path) -> str:
    asked = "".join(
        f"<li class={'ok' if one['probability'] >= 0.5 else 'no'}><b>{one['probability']:.2f}</b>"
        f"{html.escape(one['question'])} {html.escape(one['answer'])}</li>"
        for one in line["questions"]
    )
    image = data_uri(read_file(file, MAX_IMAGE_BYTES), PICTURE_PX)
    return (
        f'<article><img alt="" loading="lazy" src="{image}"><h3>{html.escape(line["prompt"])}</h3>'
        f"<p class=small>row {line['row']}, {line['atom_count']} atoms, GM {100 * line['soft_tifa_gm']:.0f}, AM "
        f"{100 * line['soft_tifa_am']:.0f}; {html.escape(line['filename'])}</p><ul>{asked}</ul></article>"
    )
