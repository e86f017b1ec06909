"""Comparisons as training data: shards in the form of GenRef-CoT, whose samples are one image with both pictures side
by side, the prompt, and what an annotator said: an analysis, which side is better, what to change in the other.

The dataset's card names these texts; under which member names they lie in the tars is not stated there, so each name is
a flag. What is assumed: the image is two pictures of one width, left and right, with nothing between them; the result
names the better side in words or by number. A sample then is a triplet: the better half is the good image, the other
half the bad one, the instructions are the reflection, and the annotator's verdict confirms the order.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image

from schemas.absent import is_absent
from schemas.checked_json import parse_object
from schemas.errors import CorruptDataError
from schemas.images import decode_image
from schemas.shards import ShardSample

IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp")
TEXTS = ("prompt", "analysis", "instructions", "result")
_LEFT = {"left", "a", "1", "first", "one"}
_RIGHT = {"right", "b", "2", "second", "two"}


@dataclass(frozen=True)
class ComparisonMembers:
    """Which member of a sample is what, where `--data` holds comparisons (GenRef-CoT) and no triplets. A text is a
    member NAME or NAME.txt, or the field NAME of a member that is JSON."""

    image: str = ""
    """Both images side by side: NAME of NAME.jpg (.png, .webp); empty: the only image that a sample has."""
    prompt: str = "prompt"
    """What both were drawn from."""
    analysis: str = "analysis"
    """How they differ."""
    instructions: str = "instructions"
    """What to change in the worse one."""
    result: str = "result"
    """Which one is better: left or right, a or b, 1 or 2, first or second."""
    subset: Literal["rule", "general", "length", "editing"] = "general"
    """Which subset's weight in the mix they have; the samples name none."""

    def missing(self, names: Sequence[str], fields: Sequence[str]) -> list[str]:
        """What a sample with these members, and these fields in its JSON, lacks."""
        lacking = [] if self.image_of(names) else [self.image or "one image"]
        texts = [getattr(self, part) for part in TEXTS]
        return lacking + [name for name in texts if name not in fields and self._text_member(name, names) is None]

    def image_of(self, names: Sequence[str]) -> str | None:
        """The member that is the image; None for none, or for several where no name was given."""
        images = [name for name in names if name.lower().rpartition(".")[2] in IMAGE_ENDINGS]
        if self.image:
            images = [name for name in images if name.rpartition(".")[0] == self.image or name == self.image]
        return images[0] if len(images) == 1 else None

    def members_of_result(self, names: Sequence[str]) -> list[str]:
        """Those that may say which side is better."""
        own = self._text_member(self.result, names)
        return [own] if own else [name for name in names if is_json(name)]

    def text(self, part: str, members: Mapping[str, bytes]) -> str:
        """One of `TEXTS`. ValueError or CorruptDataError where it is not there, or does not read."""
        name = getattr(self, part)
        own = self._text_member(name, list(members))
        if own is not None:
            return _as_text(members[own].decode())
        for member, data in members.items():
            if is_json(member):
                found = parse_object(data, f"member {member!r}")
                if name in found:
                    return _as_text(found[name])
        raise ValueError(f"no text {name!r} among {', '.join(members)}")

    @staticmethod
    def _text_member(name: str, names: Sequence[str]) -> str | None:
        return next((one for one in (name, f"{name}.txt") if one in names), None)


def is_json(name: str) -> bool:
    """By a member's name."""
    return name == "json" or name.endswith(".json")


def side_of(result: str) -> Literal["left", "right"] | None:
    """The better side, None where a result names none or both ("the left one is better", "B", "image 2")."""
    words = re.findall(r"[a-z]+|[0-9]+", result.lower())
    sides = {word for word in words if word in ("left", "right")}
    if not sides and len(words) <= 2:  # in a longer sentence "a" and "one" are no answers
        sides = {"left" if word in _LEFT else "right" for word in words if word in _LEFT | _RIGHT}
    if len(sides) != 1:
        return None
    return "left" if "left" in sides else "right"


def triplet_of(key: str, members: Mapping[str, bytes], names: ComparisonMembers, where: str) -> ShardSample:
    """A comparison as a triplet. CorruptDataError for what is none."""
    image = names.image_of(list(members))
    try:
        prompt, analysis, instructions, result = (names.text(part, members) for part in TEXTS)
    except (CorruptDataError, ValueError, RecursionError) as error:
        raise CorruptDataError(f"{where}: sample {key!r}: {error}") from error
    if not prompt:
        raise CorruptDataError(f"{where}: sample {key!r}: its prompt is empty")
    side = side_of(result)
    if image is None or side is None:
        raise CorruptDataError(f"{where}: sample {key!r}: no image, or a result that names no side: {result[:80]!r}")
    left, right = _halves(members[image], f"{where}: {key}.{image}")
    return ShardSample(
        key=key,
        good_image=left if side == "left" else right,
        bad_image=right if side == "left" else left,
        reflection=instructions,
        prompt=prompt,
        subset=names.subset,
        image_format="png",
        cot={"analysis": analysis, "instruction": instructions, "good_side": side, "verdict": side},
    )


def _halves(data: bytes, what: str) -> tuple[bytes, bytes]:
    """Left and right half as PNGs without compression; a middle column of an odd width belongs to neither."""
    image = Image.fromarray(decode_image(data, what))
    if image.width < image.height:
        size = f"{image.width}x{image.height}"
        raise CorruptDataError(f"{what}: {size} pixels are no two pictures side by side")
    half = image.width // 2
    left, right = (image.crop((x, 0, x + half, image.height)) for x in (0, image.width - half))
    return _png(left), _png(right)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


def _as_text(value: Any) -> str:
    """A list of texts is read as one after the other; what is absent is no text."""
    parts = value if isinstance(value, list) else [value]
    return " ".join(str(part).strip() for part in parts if not is_absent(part))
