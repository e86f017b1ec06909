"""What made an image: in the PNG's own text, and as JSON beside it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from schemas.configuration import model_names
from schemas.images import encode_png
from schemas.own_modules import program
from schemas.plain_text import readable
from schemas.redaction import hide

if TYPE_CHECKING:
    import numpy as np

RECORD = "made_by.json"


@dataclass(frozen=True)
class MadeBy:
    """One call of a command. models: names of all of them. settings: of the generator, or of a whole search."""

    command: str
    preset: str
    models: tuple[str, ...]
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, command: str, argv: Sequence[str], preset: str, *configs: Any) -> MadeBy:
        """command: its name, of `python -m inference`. configs: frozen dataclasses, of which the first are the
        settings."""
        said = readable(hide(f"{program('inference')} {shlex.join([command, *argv])}"))
        models = tuple(dict.fromkeys(name for config in configs for name in model_names(config)))
        return cls(said, preset, models, {type(config).__name__: asdict(config) for config in configs})

    def png(self, image: np.ndarray, prompt: str, seed: int, **more: Any) -> bytes:
        """image: uint8 (H, W, 3). The PNG says its prompt, seed, models and command, and what `more` names."""
        texts = {"prompt": prompt, "seed": seed, "model": ", ".join(self.models), "command": self.command, **more}
        return encode_png(image, {name: readable(hide(str(value))) for name, value in texts.items()})

    def record(self, **said: Any) -> str:
        """JSON of the same, with what `said` names before the settings."""
        value = {"command": self.command, "preset": self.preset, "models": list(self.models), **said}
        text = json.dumps({**value, "settings": self.settings}, indent=1, default=str, ensure_ascii=False)
        return readable(hide(text)) + "\n"
