"""Concepts from YAML files, in the published form (one concept a file) and a little more; errors name file and line.

    name: sunrise                          # letters, digits, - and _
    prompt: a photo of a sunrise
    other_prompts: [a photo of a sunrise at sea]     # optional: of the same concept, never trained on
    qa_pairs:
      - question: Does the image show a sunrise?
        answer: "Yes"                      # optional; any text
      - question: Does the image match the overlay?
        ref_images: [layout.png]           # optional: pictures in the file's folder, drawn over the image
        overlay_mode: transparent          # or solid
      - visual_prompt: {kind: horizon_position, y: 0.4}      # optional: instead of, or with, a question

Visual prompts: color_palette (colors), line_weight (weight), horizon_position (y), relative_depth (a, b); shares of the
image's sides in [0, 1], colours as "#rrggbb" or [r, g, b].
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inference.dual.concept import Concept, OverlayMode, QuestionAnswer, ReferenceImage
from inference.vlm.overlays import ColorPalette, HorizonPosition, LineWeight, RelativeDepth, Rgb, VisualPrompt
from schemas.absent import is_absent
from schemas.configuration import content_key
from schemas.errors import CorruptDataError, InputError
from schemas.images import FORMATS, decode_rgba, sha256
from schemas.named_file import MAX_IMAGE_BYTES, read_file, read_named_file

MAX_BYTES = 1 << 20  # of a concept file
MAX_TEXT = 2000  # characters of a prompt, a question or an answer
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
MODES: tuple[OverlayMode, ...] = ("transparent", "solid")
KINDS = ("color_palette", "line_weight", "horizon_position", "relative_depth")


def read_concept(path: Path) -> Concept:
    """One concept. InputError (file, line, field) for whatever is wrong, an unreadable reference picture included."""
    import yaml

    data = read_file(path, MAX_BYTES, "a concept's YAML file")
    try:
        text = data.decode("utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError("no UTF-8", file=str(path), line=line, expected="YAML in UTF-8") from error
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error) or type(error).__name__
        line = None if mark is None else mark.line + 1
        raise InputError(f"no YAML: {problem}", file=str(path), line=line) from error
    return _Reader(path).concept(root, text)


def concept_files(folder: Path) -> list[Path]:
    """The .yaml and .yml files of a folder, by name, hidden ones aside. InputError where there is none."""
    there = folder.iterdir() if folder.is_dir() else ()
    found = sorted(p for p in there if p.suffix in (".yaml", ".yml") and not p.name.startswith("."))
    if not found:
        raise InputError("no concepts", file=str(folder), expected="a folder with .yaml files, one a concept")
    return found


class _Reader:
    """One file's `yaml.Node`s to values."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pictures: list[str] = []

    def concept(self, root: Any, text: str) -> Concept:
        if root is None:
            raise InputError("empty", file=str(self._path), expected="name, prompt and qa_pairs")
        fields = self._mapping(root, "", required=("name", "prompt", "qa_pairs"), optional=("other_prompts",))
        name = self._text(fields["name"], "name")
        if NAME.fullmatch(name) is None:
            raise self._wrong(fields["name"], f"{name!r} is no name", "name", "1 to 64 letters, digits, - and _")
        others = tuple(
            self._text(node, "other_prompts") for node in self._sequence(fields.get("other_prompts"), "other_prompts")
        )
        pairs = self._sequence(fields["qa_pairs"], "qa_pairs")
        if not pairs:
            raise self._wrong(fields["qa_pairs"], "no questions", "qa_pairs", "one or more questions")
        questions = tuple(self._question(node, f"qa_pairs[{i}]") for i, node in enumerate(pairs))
        prompt = self._text(fields["prompt"], "prompt")
        return Concept(name, prompt, questions, others, content_key(text, self._pictures))

    def _question(self, node: Any, field: str) -> QuestionAnswer:
        optional = ("question", "answer", "ref_images", "overlay_mode", "visual_prompt")
        fields = self._mapping(node, field, (), optional)
        drawn: VisualPrompt | None = None
        if "visual_prompt" in fields:
            drawn = self._visual_prompt(fields["visual_prompt"], f"{field}.visual_prompt")
        if "question" in fields:
            question = self._text(fields["question"], f"{field}.question")
        elif drawn is not None:
            question = drawn.question
        else:
            raise self._wrong(node, "no question", f"{field}.question", "a question, or a visual_prompt with its own")
        answer = self._text(fields["answer"], f"{field}.answer") if "answer" in fields else "Yes"
        pictures = self._references(fields, field, question)
        return QuestionAnswer(question, answer, (*pictures, *([drawn] if drawn else [])))

    def _references(self, fields: dict[str, Any], field: str, question: str) -> list[ReferenceImage]:
        mode: OverlayMode = "transparent"
        if "overlay_mode" in fields:
            node = fields["overlay_mode"]
            said = self._text(node, f"{field}.overlay_mode")
            if said not in MODES:
                raise self._wrong(node, f"{said!r} is no overlay mode", f"{field}.overlay_mode", " or ".join(MODES))
            mode = "solid" if said == "solid" else "transparent"
            if "ref_images" not in fields:
                raise self._wrong(
                    node, "an overlay mode without pictures", f"{field}.ref_images", "one or more pictures"
                )
        node = fields.get("ref_images")
        if node is None:
            return []
        name = f"{field}.ref_images"
        one = node.id == "scalar"
        return [
            ReferenceImage(self._picture(item, name, mode), question, mode)
            for item in ([node] if one else self._sequence(node, name))
        ]

    def _picture(self, node: Any, field: str, mode: OverlayMode) -> np.ndarray:
        """uint8 (H, W, 4)."""
        name, folder = self._text(node, field), self._path.parent
        path = folder / name
        try:
            data = read_named_file(folder, name, MAX_IMAGE_BYTES)
            picture = decode_rgba(data, str(path))
        except InputError as error:
            expected = "the name of a picture in this file's folder, or below it"
            raise self._wrong(node, f"{name!r}: {error.problem}", field, expected) from error
        except CorruptDataError as error:
            raise self._wrong(node, str(error), field, f"a picture that decodes: {', '.join(FORMATS)}") from error
        if mode == "solid" and picture[..., 3].min() == 255:
            raise self._wrong(
                node,
                f"{path} would hide the whole image: it is solid everywhere",
                field,
                "a picture with transparent parts (a PNG with alpha), or overlay_mode: transparent",
            )
        self._pictures.append(sha256(data))
        return picture

    def _visual_prompt(self, node: Any, field: str) -> VisualPrompt:
        kind_node = self._mapping(node, field, ("kind",), ("colors", "weight", "y", "a", "b"))["kind"]
        kind = self._text(kind_node, f"{field}.kind")
        match kind:
            case "color_palette":
                fields = self._mapping(node, field, ("kind", "colors"), ())
                colors = self._sequence(fields["colors"], f"{field}.colors")
                if not colors:
                    raise self._wrong(fields["colors"], "no colors", f"{field}.colors", "one or more colors")
                return ColorPalette(tuple(self._color(item, f"{field}.colors") for item in colors))
            case "line_weight":
                fields = self._mapping(node, field, ("kind", "weight"), ())
                return LineWeight(self._share(fields["weight"], f"{field}.weight"))
            case "horizon_position":
                return HorizonPosition(self._share(self._mapping(node, field, ("kind", "y"), ())["y"], f"{field}.y"))
            case "relative_depth":
                fields = self._mapping(node, field, ("kind", "a", "b"), ())
                return RelativeDepth(self._point(fields["a"], f"{field}.a"), self._point(fields["b"], f"{field}.b"))
            case _:
                raise self._wrong(kind_node, f"{kind!r} is no visual prompt", f"{field}.kind", ", ".join(KINDS))

    def _color(self, node: Any, field: str) -> Rgb:
        expected = '"#rrggbb", or [r, g, b] with whole numbers from 0 to 255'
        if node.id == "sequence":
            parts = [self._plain(item) for item in node.value]
            values = [int(part) for part in parts if re.fullmatch(r"\d{1,3}", part) and int(part) < 256]
            if len(parts) == len(values) == 3:
                return values[0], values[1], values[2]
        else:
            match = re.fullmatch("#([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})", self._plain(node))
            if match:
                red, green, blue = (int(part, 16) for part in match.groups())
                return red, green, blue
        raise self._wrong(node, "no color (one that starts with # needs quotes)", field, expected)

    def _point(self, node: Any, field: str) -> tuple[float, float]:
        items = self._sequence(node, field)
        if len(items) != 2:
            raise self._wrong(node, f"{len(items)} numbers", field, "[x, y]: shares of width and height")
        return self._share(items[0], field), self._share(items[1], field)

    def _share(self, node: Any, field: str) -> float:
        said = self._plain(node)
        try:
            value = float(said)
        except ValueError:
            value = -1.0
        if not 0 <= value <= 1:
            raise self._wrong(node, f"{said!r} is no share", field, "a number from 0 to 1")
        return value

    def _text(self, node: Any, field: str) -> str:
        said = self._plain(node).strip()
        if node.tag == "tag:yaml.org,2002:bool" and field.endswith("answer"):
            return "Yes" if said.lower() in ("yes", "true", "on") else "No"  # YAML reads a bare Yes as true
        is_none = is_absent(said) and not (said and field.endswith("answer"))  # "None" may be the right answer
        if is_none or node.id != "scalar" or node.tag == "tag:yaml.org,2002:null":
            raise self._wrong(node, "no text", field, "text")
        if len(said) > MAX_TEXT:
            raise self._wrong(node, f"{len(said)} characters", field, f"at most {MAX_TEXT}")
        return said

    def _plain(self, node: Any) -> str:
        return node.value if node.id == "scalar" else ""

    def _sequence(self, node: Any, field: str) -> Sequence[Any]:
        if node is None:
            return []
        if node.id != "sequence":
            raise self._wrong(node, "no list", field, "a list")
        return node.value

    def _mapping(self, node: Any, field: str, required: Sequence[str], optional: Sequence[str]) -> dict[str, Any]:
        allowed = (*required, *optional)
        if node.id != "mapping":
            raise self._wrong(node, "no mapping", field or None, f"keys with values: {', '.join(allowed)}")
        found: dict[str, Any] = {}
        for key, value in node.value:
            name = self._plain(key)
            if name not in allowed or name in found:
                what = "occurs twice" if name in found else "is not known"
                raise self._wrong(key, f"the key {name!r} {what}", f"{field}.{name}".strip("."), ", ".join(allowed))
            found[name] = value
        missing = [name for name in required if name not in found]
        if missing:
            raise self._wrong(
                node, f"no {' and no '.join(missing)}", field or missing[0], f"keys: {', '.join(allowed)}"
            )
        return found

    def _wrong(self, node: Any, problem: str, field: str | None, expected: str) -> InputError:
        line = node.start_mark.line + 1
        return InputError(problem, file=str(self._path), line=line, field=field, expected=expected)
