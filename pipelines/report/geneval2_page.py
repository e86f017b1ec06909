"""The page of a GenEval 2 evaluation: the scores, and pictures with the probability of each expected answer."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.report.pictures import data_uri
from pipelines.report.score_page import page, score_table
from schemas.named_file import MAX_IMAGE_BYTES, read_file

MAX_PICTURES = 1000
PICTURE_PX = 256


def render_page(summary: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], files: Mapping[str, Path]) -> str:
    """HTML without anything from elsewhere. files: of the lines, by their `filename`."""
    pictures = "".join(_picture(line, files[line["filename"]]) for line in lines[:MAX_PICTURES])
    more = f"<p>{len(lines) - MAX_PICTURES:,} more images are in results.jsonl.</p>" * (len(lines) > MAX_PICTURES)
    skipped = f"{len(summary['skipped'])} left out." if "skipped" in summary else ""
    scores = {"GM": summary["soft_tifa_gm"], "AM": summary["soft_tifa_am"]}
    body = f"""<p>{summary["num_prompts"]} prompts, {summary["num_images"]} images, {summary["num_questions"]}
questions, judged by <b>{html.escape(summary["judge"])}</b>; scores of other judges cannot be compared with these.
{skipped}</p>
<div class=tables>{score_table("Soft-TIFA, 95 %", scores)}{score_table("AM by skill", summary["am_by_skill"])}
{score_table("GM by atoms", summary["gm_by_atom_count"])}</div>
<h2>Images</h2>
<p>Behind each question stands how probable its expected answer is.</p>
<div class=grid>{pictures}</div>{more}"""
    return page("GenEval 2", f"GenEval 2: Soft-TIFA {summary['soft_tifa_gm'][0]:.1f}", body)


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
