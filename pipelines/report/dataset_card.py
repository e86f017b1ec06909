"""`card/README.md`: what a dataset holds, in the Hugging Face format, with its figures as SVG beside it."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from inference.model_store import SHIPPED, known_model
from pipelines.jobs import JobConfig, models_of
from pipelines.report.drawn_elsewhere import NOT_IDENTICAL, servers_that_draw
from pipelines.report.statistics import DatasetFigures, as_json, dataset_figures, likeness_figures
from pipelines.run_folder import RunFolder
from schemas.records import Cost

FOLDER = "card"
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_NO_MODELS = ("rule", "dataset")  # annotators: the checker's sentences, and an editing dataset's own
_ABOUT = {
    "rule": "composed prompts, candidates checked by Grounded-SAM, right ones against wrong ones",
    "general": "detailed prompts, the best by a reward ensemble against the worst",
    "length": "a long prompt's images against its condensed form's, filtered by the ensemble",
    "editing": "editing triplets: the source image against the edited one",
}


def write_card(folder: RunFolder, config: JobConfig) -> str:
    """Write the card, its figures and `statistics.json` into the run. Returns the card's path or URI."""
    figures = dataset_figures(folder, config)
    pictures = draw_figures(figures)
    for name, svg in pictures.items():
        folder.storage.commit(f"{FOLDER}/{name}.svg", svg)
    folder.write_json(f"{FOLDER}/statistics.json", as_json(figures))
    name = folder.storage.uri.rstrip("/").rpartition("/")[2]
    text = render_card(name, folder, config, figures, tuple(pictures))
    folder.storage.commit(f"{FOLDER}/README.md", text.encode())
    return f"{folder.storage.uri.rstrip('/')}/{FOLDER}/README.md"


def render_card(
    name: str, folder: RunFolder, config: JobConfig, figures: DatasetFigures, pictures: tuple[str, ...]
) -> str:
    """The Markdown, with the YAML head that the hub reads."""
    num_pairs = figures.counts.pairs["shipped"]
    size = next((label for limit, label in _SIZES if num_pairs < limit), "n>1M")
    parts = [
        f"---\npretty_name: {json.dumps(name)}\ntask_categories:\n- text-to-image\n- image-to-image\n"
        f"tags:\n- webdataset\n- reflection\n- ReflectionFlow\nsize_categories:\n- {size}\n{_form(config)}---\n",
        f"# {name}\n\n{num_pairs:,} triplets of a flawed image, a better one, and the reflection that leads from one "
        "to the other, built by the ReflectionFlow pipeline. Shards are WebDataset tars:\n\n" + _recipe(config),
        f"Members of a sample: {', '.join(f'`{name}`' for name in _members(config))}. `meta.json` is where it comes "
        "from; `cot.json` has analysis, verdict and sides where an annotator compared the images, else `null`.\n",
        "## Subsets\n\n" + _subset_table(figures),
        "".join(f"![{title.replace('_', ' ')}]({title}.svg)\n\n" for title in pictures),
        "## What was turned down\n\n" + _reason_tables(figures),
        "## Reflections\n\n" + _reflections(figures),
        *_likeness(figures),
        "## Repetition and contamination\n\n" + _repetition(figures),
        "## Cost\n\n" + _cost_table(figures.cost, num_pairs),
        "## Models\n\n" + _model_table(folder, config, figures),
    ]
    return "\n".join(parts)


def _members(config: JobConfig) -> dict[str, str]:
    """Name of each member of a sample, and its type as `datasets` calls it."""
    images = {f"{side}_image.{config.pack.image_format}": "Image()" for side in ("good", "bad")}
    texts = dict.fromkeys(("prompt.txt", "reflection.txt", "subset.txt"), 'Value("string")')
    return {**images, **texts, "meta.json": "Json()", "cot.json": "Json()"}


def _recipe(config: JobConfig) -> str:
    """How shards are read. What is in the JSON members differs from subset to subset, so no reader can guess their type
    from the first samples."""
    features = "".join(f'    "{name}": datasets.{kind},\n' for name, kind in _members(config).items())
    return (
        f"```python\nimport datasets\n\nfeatures = datasets.Features({{\n{features}}})\n"
        "pairs = datasets.load_dataset(\n"
        '    "webdataset", data_files="shards/*.tar", split="train", streaming=True, features=features\n)\n```\n\n'
        'From the hub, `datasets.load_dataset("OWNER/NAME")` does it. The type `Json` is of newer versions of '
        "`datasets`; `webdataset` reads the shards, too.\n"
    )


def _form(config: JobConfig) -> str:
    """The same for the hub, as YAML."""
    types = {"Image()": "image", 'Value("string")': "string", "Json()": "json"}
    features = "".join(f"  - name: {name}\n    dtype: {types[kind]}\n" for name, kind in _members(config).items())
    return (
        "configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: shards/*.tar\n"
        f"dataset_info:\n  features:\n{features}"
    )


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _subset_table(figures: DatasetFigures) -> str:
    rows = [
        (
            f"`{name}`",
            _ABOUT.get(name, ""),
            sum(of.prompts.values()),
            of.prompts["shipped"],
            of.prompts["rejected"],
            of.prompts["quarantined"],
            of.pairs["shipped"],
            of.pairs["rejected"],
        )
        for name, of in figures.subsets.items()
    ]
    head = (
        "subset",
        "how pairs come about",
        "prompts",
        "shipped",
        "rejected",
        "quarantined",
        "pairs",
        "pairs rejected",
    )
    tags = [
        (f"`{name}`", tag.replace("_", " "), count)
        for name, of in figures.subsets.items()
        for tag, count in of.tags.most_common()
        if count and tag != "no tag"
    ]
    return _table(head, rows) + ("\n" + _table(("subset", "tag", "pairs"), tags) if tags else "")


def _reason_tables(figures: DatasetFigures) -> str:
    rows = [
        (f"`{name}`", what, reason.replace("_", " "), count)
        for name, of in figures.subsets.items()
        for what, reasons in (("prompts", of.prompt_reasons), ("pairs", of.pair_reasons))
        for reason, count in reasons.most_common()
    ]
    return _table(("subset", "of", "reason", "count"), rows) if rows else "Nothing.\n"


def _reflections(figures: DatasetFigures) -> str:
    parts = [
        "Written by " + (", ".join(f"{who} ({count:,})" for who, count in figures.annotators.most_common()) or "nobody")
    ]
    parts[0] += ".\n"
    if any(figures.judged.values()):
        shares = [
            f"{side} {figures.agreed[side]:,} of {figures.judged[side]:,} ({share:.1%})"
            for side in ("left", "right")
            if (share := figures.agreement(side)) is not None
        ]
        parts.append(
            "The annotator was not told which image is the good one. Its verdict agreed with the label, by the side "
            f"the good image was on: {', '.join(shares)}. More than five points apart would be position bias.\n"
        )
    openings = ", ".join(f"“{words}…” {count:,}" for words, count in figures.openings.most_common(8))
    parts.append(f"Most frequent openings: {openings or 'none'}.\n")
    return "\n".join(parts)


def _likeness(figures: DatasetFigures) -> list[str]:
    """A section, where likeness was measured."""
    measured = likeness_figures(figures)
    if not measured:
        return []
    rows = [(f"`{one['subset']}`", *(one[name] for name in ("by", "pairs", "p10", "p50", "p90"))) for one in measured]
    said = (
        "How alike the two images of a pair are: 1 for equal ones. `clip` and `dino` are the cosine of features, "
        "`pixels` one less the mean absolute difference. Each pair's own stands in its `meta.json`.\n\n"
    )
    return [
        "## Likeness\n\n"
        + said
        + _table(("subset", "by", "pairs", "one in ten below", "median", "one in ten above"), rows)
    ]


def _repetition(figures: DatasetFigures) -> str:
    overlaps = ", ".join(f"{count:,} by {kind}" for kind, count in figures.overlaps.items()) or "none"
    rows = [
        ("images equal to another", figures.equal_images),
        ("images like another (64-bit difference hash, at most 4 bits apart)", figures.similar_images),
        ("prompts equal to another", figures.equal_prompts),
        ("reflections equal to another", figures.equal_reflections),
        ("prompts that repeat one of GenEval's 553", overlaps),
    ]
    return _table(("what", "count"), rows)


def _cost_table(cost: Mapping[str, Cost], num_pairs: int) -> str:
    rows = [
        (f"`{stage}`", kind.replace("_", " "), value, f"{value / num_pairs:,.1f}" if num_pairs else "–")
        for stage, of in cost.items()
        for kind, value in asdict(of).items()
        if value
    ]
    return _table(("stage", "what", "in all", "a shipped pair"), rows)


def _model_table(folder: RunFolder, config: JobConfig, figures: DatasetFigures) -> str:
    rows = []
    for name in models_of(config):
        known = known_model(name)
        ours = "Apache-2.0 (this project)" if name.partition("/")[0] in SHIPPED else "see the model"
        licence = known.licence if known else ours
        rows.append((f"`{name}`", f"`{folder.info.digests.get(name, '?')}`", licence))
    servers = servers_that_draw(config)
    rows += [(f"`{name}`", "drawn by a server", "see its provider's terms") for name in servers]
    for name in set(figures.annotators) - set(models_of(config)) - set(_NO_MODELS):
        rows.append((f"`{name}`", "at an endpoint", "see its provider's terms"))
    said = "\nImages inherit the terms of the model that drew them; editing triplets those of their dataset.\n"
    if servers:
        said += "\n" + NOT_IDENTICAL + "\n"
    return _table(("model", "digest", "licence"), rows) + said


def draw_figures(figures: DatasetFigures) -> dict[str, bytes]:
    """SVG by name: outcomes of each subset, lengths of reflections."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn: dict[str, bytes] = {}
    names = list(figures.subsets)
    figure, axis = pyplot.subplots(figsize=(6, 0.6 + 0.5 * max(1, len(names))))
    left = [0] * len(names)
    for outcome, color in (("shipped", "#2b8a3e"), ("rejected", "#ced4da"), ("quarantined", "#e8590c")):
        values = [figures.subsets[name].prompts[outcome] for name in names]
        axis.barh(names, values, left=left, color=color, label=outcome)
        left = [a + b for a, b in zip(left, values, strict=True)]
    axis.invert_yaxis()
    axis.set_xlabel("prompts")
    axis.legend(frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1))
    drawn["outcomes"] = _svg(figure)
    if figures.words:
        figure, axis = pyplot.subplots(figsize=(6, 2.4))
        axis.bar(list(figures.words), list(figures.words.values()), color="#4263eb")
        axis.set(xlabel="words of a reflection", ylabel="pairs")
        drawn["reflection_lengths"] = _svg(figure)
    return drawn


def _svg(figure: Any) -> bytes:
    import matplotlib
    from matplotlib import pyplot

    for side in ("top", "right"):
        figure.axes[0].spines[side].set_visible(False)
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "card"}):  # equal figures, equal bytes
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)
    return buffer.getvalue()
