"""Which GPU does what: a plan's placement as lines of text, and as an SVG."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from pipelines.placement import Cluster, Placement, StageEstimate, one_vllm_each

COLORS = ("#2a9d8f", "#e9a23b", "#5b7fbf", "#b5637a", "#7a9a4c", "#8d6cab", "#c0694a")
IDLE = "#dde3e3"
BAR_CHARS = 40


@dataclass(frozen=True)
class GpuTime:
    """What the GPUs `first` to `last` of the cluster do, all alike: (stage, share of the run's time), in order."""

    first: int
    last: int
    shares: tuple[tuple[str, float], ...]

    @property
    def idle(self) -> float:
        """Share of the time for which there is nothing to do."""
        return max(0.0, 1.0 - sum(share for _, share in self.shares))

    @property
    def label(self) -> str:
        """For people."""
        return f"GPU {self.first}" if self.first == self.last else f"GPU {self.first}-{self.last}"


def gpu_times(stages: Sequence[StageEstimate], placement: Placement, cluster: Cluster) -> list[GpuTime]:
    """Every GPU of the cluster once. Where each GPU holds all stages, or all of them in turn, all are alike."""
    placed = [stage for stage in one_vllm_each(stages) if stage.name in placement.workers]
    whole_s = placement.hours * 3600 or 1.0  # nobody knows how long anything takes
    divided = placement.schedule == "streaming" and all(placement.gpus[s.name] == 1 for s in placed) and len(placed) > 1
    if not divided:
        shares = tuple((stage.name, (stage.seconds or 0.0) / cluster.gpus / whole_s) for stage in placed)
        return [GpuTime(0, cluster.gpus - 1, shares)]
    times, first = [], 0
    for stage in placed:
        count = placement.workers[stage.name]
        times.append(GpuTime(first, first + count - 1, ((stage.name, (stage.seconds or 0.0) / count / whole_s),)))
        first += count
    return times


def as_text(times: Sequence[GpuTime]) -> str:
    """A bar a line: a letter for each stage, a dot for a GPU that waits."""
    letters = _letters(times)
    width = max(len(t.label) for t in times)
    lines = []
    for t in times:
        bar, end = "", 0.0
        for name, share in t.shares:
            end += share
            bar += letters[name] * max(1 if share > 0 else 0, round(end * BAR_CHARS) - len(bar))
        words = ", ".join(f"{letters[name]} {name} {share:.0%}" for name, share in t.shares)
        idle = f", idle {t.idle:.0%}" if t.idle >= 0.005 else ""
        lines.append(f"  {t.label:<{width}} |{bar[:BAR_CHARS]:.<{BAR_CHARS}}| {words}{idle}")
    return "\n".join(lines)


def as_svg(times: Sequence[GpuTime], placement: Placement, cluster: Cluster, rows: int = 16) -> str:
    """A row for each GPU (of the first `rows`), as long as the run; a mark between nodes."""
    names = list(_letters(times))
    color = {name: COLORS[i % len(COLORS)] for i, name in enumerate(names)}
    width, left, height = 560, 70, 16
    parts: list[str] = []
    shown = min(rows, cluster.gpus)
    for number in range(shown):
        y = 34 + number * (height + 4) + 8 * (number // cluster.gpus_per_node)
        parts.append(f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">GPU {number}</text>')
        parts.append(f'<rect x="{left}" y="{y}" width="{width}" height="{height}" fill="{IDLE}"/>')
        x = float(left)
        for name, share in next(t for t in times if t.first <= number <= t.last).shares:
            parts.append(
                f'<rect x="{x:.1f}" y="{y}" width="{share * width:.1f}" height="{height}" fill="{color[name]}">'
                f"<title>{escape(name)}: {share:.1%} of the time</title></rect>"
            )
            x += share * width
    bottom = 34 + shown * (height + 4) + 8 * ((shown - 1) // cluster.gpus_per_node) + 14
    if shown < cluster.gpus:
        parts.append(f'<text x="{left}" y="{bottom}">and {cluster.gpus - shown} more</text>')
        bottom += 18
    x = left
    for name in names:
        parts.append(f'<rect x="{x}" y="{bottom}" width="10" height="10" fill="{color[name]}"/>')
        parts.append(f'<text x="{x + 14}" y="{bottom + 9}">{escape(name)}</text>')
        x += 24 + 7 * len(name)
    how = "all stages at once" if placement.schedule == "streaming" else "one stage after the other"
    title = f"{cluster.gpus} x {cluster.gpu_type}, {how}: {placement.hours:.1f} h"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 20}" height="{bottom + 24}" '
        f'font-family="sans-serif" font-size="12" fill="#333"><rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="{left}" y="20" font-size="13">{escape(title)}</text>{"".join(parts)}</svg>\n'
    )


def _letters(times: Sequence[GpuTime]) -> dict[str, str]:
    """One letter a stage, its first one that is free."""
    letters: dict[str, str] = {}
    for t in times:
        for name, _ in t.shares:
            if name not in letters:
                letters[name] = next(c for c in name.upper() + "XYZ" if c.isalpha() and c not in letters.values())
    return letters
