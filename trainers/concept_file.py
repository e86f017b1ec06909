"""Concepts from YAML files: one a file, or several in the published form; errors name file and line.

    name: sunrise                          # letters, digits, - and _
    prompt: a photo of a sunrise
    other_prompts: [a photo of a sunrise at sea]     # optional: of the same concept, never trained on
    also:                                  # optional: more prompts that are taught, a step each in turn
      - prompt: a painting of a sunrise    # with the questions below, or with qa_pairs of its own
    qa_pairs:
      - question: Does the image show a sunrise?
        answer: "Yes"                      # optional; any text
        paraphrases: [Is this a sunrise?]  # optional: the same in other words, with the same answer
      - question: Does the image match the overlay?
        ref_images: [layout.png]           # optional: pictures in the file's folder, drawn over the image
        overlay_mode: transparent          # or solid: what is white or transparent in the picture shows the image
      - visual_prompt: {kind: horizon_position, y: 0.4}      # optional: instead of, or with, a question

Visual prompts: color_palette (colors), line_weight (weight), horizon_position (y), relative_depth (a, b); shares of the
image's sides in [0, 1], colours as "#rrggbb" or [r, g, b]. The order of the questions, easiest first, is the path of a
training with a `curriculum`.

Several (g-luo/dual_process, configs/dataset), and what is put behind every question, which one concept may say, too:

    question_postfix: Answer with Yes or No.       # optional; without it the teacher's own stands behind yes and no
    dataset:
      - {name: ..., prompt: ..., qa_pairs: [...]}
"""

from __future__ import annotations

import logging
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
SETTINGS = (
    *("pipe_kwargs", "vlm_kwargs", "vlm_template", "opt_kwargs", "eval_kwargs", "lora_kwargs", "generator_kwargs"),
    *("edit_kwargs", "opt_repeat", "opt_start", "save_folder"),
)
"""Of a published training's own copy of its configuration, besides its concepts: presets and flags say that here."""

log = logging.getLogger(__name__)


def read_concept(path: Path, name: str = "") -> Concept:
    """A file's only concept, or of several the one of that name. InputError (file, line, field) for whatever is wrong
    with it, an unreadable reference picture included."""
    found = read_concepts(path)
    named = [one for one in found if isinstance(one, Concept) and one.name == name]
    if named:
        return named[0]
    for one in found:
        if isinstance(one, InputError):
            raise one
    names = [one.name for one in found if isinstance(one, Concept)]
    if name or len(names) != 1:
        raise InputError(
            f"no concept {name!r}" if name else f"{len(names)} concepts",
            file=str(path),
            field="name" if name else "dataset",
            expected=f"one of {', '.join(names)}",
        )
    (concept,) = [one for one in found if isinstance(one, Concept)]
    return concept


def read_concepts(path: Path) -> list[Concept | InputError]:
    """All concepts of a file; in the place of one with which something is wrong, that. InputError where that is the
    file itself."""
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
    return _Reader(path).concepts(root, text)


def concept_files(folder: Path) -> list[Path]:
    """The .yaml and .yml files of a folder, by name, hidden ones aside; or the one file that is named. InputError where
    there is none."""
    if folder.is_file():
        return [folder]
    there = folder.iterdir() if folder.is_dir() else ()
    found = sorted(p for p in there if p.suffix in (".yaml", ".yml") and not p.name.startswith("."))
    if not found:
        raise InputError("no concepts", file=str(folder), expected="a folder with .yaml files, or one of them")
    return found


class _Reader:
    """One file's `yaml.Node`s to values."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pictures: list[str] = []
        self._postfix: str | None = None

    def concepts(self, root: Any, text: str) -> list[Concept | InputError]:
        """text: all of the file's."""
        import yaml

        if root is None:
            raise InputError("empty", file=str(self._path), expected="name, prompt and qa_pairs")
        keys = {self._plain(key) for key, _ in root.value} if root.id == "mapping" else set()
        if "dataset" not in keys:
            return [self._concept(root, "", ("question_postfix",), text)]
        fields = self._mapping(root, "", ("dataset",), ("question_postfix", *SETTINGS))
        ignored = [name for name in SETTINGS if name in fields]
        if ignored:
            log.warning(
                "%s: %s are settings of a training and are not read: presets and flags say them",
                self._path,
                ", ".join(ignored),
            )
        nodes = self._sequence(fields["dataset"], "dataset")
        if not nodes:
            raise self._wrong(fields["dataset"], "no concepts", "dataset", "one or more concepts")
        postfix = self._postfix_of(fields)
        found: list[Concept | InputError] = []
        for i, node in enumerate(nodes):
            self._pictures, self._postfix = [], postfix
            try:
                found.append(self._concept(node, f"dataset[{i}].", (), [yaml.serialize(node), postfix]))
            except InputError as error:
                found.append(error)
        return found

    def _postfix_of(self, fields: dict[str, Any]) -> str | None:
        """What stands behind every question of the file; None where it does not say, "" where it says nothing."""
        node = fields.get("question_postfix")
        if node is None:
            return None
        if node.id == "scalar" and (not node.value.strip() or node.tag == "tag:yaml.org,2002:null"):
            return ""
        return self._text(node, "question_postfix")

    def _concept(self, root: Any, at: str, more: Sequence[str], content: Any) -> Concept:
        """at: where it stands, before its fields' names. content: what its digest is of, beside its pictures."""
        required, optional = ("name", "prompt", "qa_pairs"), ("other_prompts", "also", *more)
        fields = self._mapping(root, at.rstrip("."), required, optional)
        if more:
            self._postfix = self._postfix_of(fields)
        name = self._text(fields["name"], f"{at}name")
        if NAME.fullmatch(name) is None:
            raise self._wrong(fields["name"], f"{name!r} is no name", f"{at}name", "1 to 64 letters, digits, - and _")
        listed = self._sequence(fields.get("other_prompts"), f"{at}other_prompts")
        others = tuple(self._text(node, f"{at}other_prompts") for node in listed)
        questions = self._questions(fields["qa_pairs"], f"{at}qa_pairs")
        prompt = self._text(fields["prompt"], f"{at}prompt")
        also = self._also(fields.get("also"), f"{at}also", name, [prompt, *others], questions)
        return Concept(name, prompt, questions, others, content_key(content, self._pictures), also)

    def _questions(self, node: Any, field: str) -> tuple[QuestionAnswer, ...]:
        pairs = self._sequence(node, field)
        if not pairs:
            raise self._wrong(node, "no questions", field, "one or more questions")
        return tuple(self._question(pair, f"{field}[{i}]") for i, pair in enumerate(pairs))

    def _also(
        self, node: Any, field: str, name: str, said: list[str], questions: tuple[QuestionAnswer, ...]
    ) -> tuple[Concept, ...]:
        """said: prompts that are there already. questions: of those that bring none."""
        found = []
        for i, one in enumerate(self._sequence(node, field)):
            at = f"{field}[{i}]"
            fields = self._mapping(one, at, ("prompt",), ("qa_pairs",))
            prompt = self._text(fields["prompt"], f"{at}.prompt")
            if prompt in said:
                raise self._wrong(fields["prompt"], f"{prompt!r} is there already", f"{at}.prompt", "another prompt")
            said.append(prompt)
            own = self._questions(fields["qa_pairs"], f"{at}.qa_pairs") if "qa_pairs" in fields else questions
            found.append(Concept(name, prompt, own))
        return tuple(found)

    def _question(self, node: Any, field: str) -> QuestionAnswer:
        optional = ("question", "answer", "paraphrases", "ref_images", "overlay_mode", "visual_prompt")
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
        overlays = (*pictures, *([drawn] if drawn else []))
        return QuestionAnswer(question, answer, overlays, self._postfix, self._paraphrases(fields, field, question))

    def _paraphrases(self, fields: dict[str, Any], field: str, question: str) -> tuple[str, ...]:
        name, said = f"{field}.paraphrases", [question]
        for node in self._sequence(fields.get("paraphrases"), name):
            said.append(self._text(node, name))
            if said[-1].casefold() in (one.casefold() for one in said[:-1]):
                raise self._wrong(node, f"{said[-1]!r} is asked already", name, "other words for the same question")
        return tuple(said[1:])

    def _references(self, fields: dict[str, Any], field: str, question: str) -> list[ReferenceImage]:
        mode: OverlayMode = "transparent"
        fields = {name: node for name, node in fields.items() if node.tag != "tag:yaml.org,2002:null"}
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
            picture = _without_white(picture)
        if not picture[..., 3].any():
            raise self._wrong(
                node, f"{path} shows nothing: it is transparent or white", field, "a picture of something"
            )
        if mode == "solid" and picture[..., 3].min() == 255:
            raise self._wrong(
                node,
                f"{path} would hide the whole image: it is solid everywhere",
                field,
                "a picture with parts that are transparent, or white (255, 255, 255), or overlay_mode: transparent",
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


def _without_white(picture: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 4), of one without transparency: white is its ground, as in the published files, and is seen
    through."""
    keyed = picture.copy()
    keyed[(picture[..., :3] == 255).all(-1), 3] = 0
    return keyed
