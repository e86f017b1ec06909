"""What a training's curve says, however long its steps took."""

import json

TIMED = {"data_wait", "samples_per_s"}


def loss_curve(out):
    """Rows of `out/curve.jsonl` without what depends on the clock."""
    rows = [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in TIMED} for row in rows]
