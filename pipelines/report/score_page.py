"""What the pages of benchmarks' scores have in common: one file without anything from elsewhere."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

_CSS = """
body{font:15px/1.45 system-ui,sans-serif;margin:1.5rem auto;max-width:1200px;padding:0 1rem;color:#1c1c1e;
background:#fff}h1,h3,li{overflow-wrap:anywhere}table{border-collapse:collapse}caption{text-align:left;font-weight:600}
td,th{padding:.15rem .8rem .15rem 0;border-bottom:1px solid #8884;text-align:left;font-weight:400}
.tables{display:flex;flex-wrap:wrap;gap:1rem 2.5rem;overflow-x:auto}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(256px,100%),1fr));gap:1.5rem 1rem}
article img{width:100%;max-width:256px;image-rendering:pixelated;display:block}h3{font-size:15px;margin:.4rem 0}
ul{margin:0;padding:0;list-style:none;font-size:13px}li{padding:.1rem 0}li b{display:inline-block;min-width:2.4rem}
.no b{color:#c33}.ok b{color:#2a8f4a}.small{font-size:12px;color:#888;margin:.2rem 0;overflow-wrap:anywhere}
@media (prefers-color-scheme:dark){body{background:#17181a;color:#e8e8ea}}
"""


def page(title: str, heading: str, body: str, css: str = "") -> str:
    """HTML. heading and body are HTML already; css: more rules."""
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<style>{_CSS}{css}</style>
<h1>{heading}</h1>
{body}</html>"""


def score_table(title: str, scores: Mapping[str, Sequence[float]]) -> str:
    """Names with a value and its interval each, in %."""
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{value:.1f}</td><td>{low:.1f} to {high:.1f}</td></tr>"
        for name, (value, low, high) in scores.items()
    )
    return f"<table><caption>{title}</caption>{rows}</table>"
