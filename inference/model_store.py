"""From a model's name to its folder, and from a folder to a digest.

A name is a folder of this project's model zoo ("micro/flux"), a local path, or a hub id
("black-forest-labs/FLUX.1-dev") that is already in the local hub cache. Nothing is downloaded behind anybody's back.
"""

import functools
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import MissingWeightsError

MICRO_WEIGHTS = Path(__file__).parent / "micro" / "weights"
_SAMPLE_BYTES = 2**20


@dataclass(frozen=True)
class HubModel:
    """What a person needs to know before fetching a model."""

    size: str
    licence: str


KNOWN_MODELS: dict[str, HubModel] = {
    "black-forest-labs/FLUX.1-dev": HubModel(
        "34 GB", "FLUX.1 [dev] non-commercial, gated: accept it on the model page"
    ),
    "black-forest-labs/FLUX.1-schnell": HubModel("34 GB", "Apache-2.0"),
    "IDEA-Research/grounding-dino-tiny": HubModel("0.7 GB", "Apache-2.0"),
    "IDEA-Research/grounding-dino-base": HubModel("0.9 GB", "Apache-2.0"),
    "openai/clip-vit-large-patch14": HubModel("1.7 GB", "MIT"),
}


def resolve_model(name: str) -> Path:
    """The local folder (or file) of a model. MissingWeightsError says how to get one that is not here."""
    if name.startswith("micro/"):
        folder = MICRO_WEIGHTS / name.removeprefix("micro/")
        if folder.is_dir():
            return folder
        raise MissingWeightsError(
            f"the micro model {name!r} is not in {MICRO_WEIGHTS}",
            expected="a full clone of the repository, or `python -m trainers micro --model all` to train it",
        )
    path = Path(name).expanduser()
    if path.exists():
        return path
    cached = _hub_snapshot(name)
    if cached is not None:
        return cached
    known = KNOWN_MODELS.get(name)
    about = f" ({known.size}; licence: {known.licence})" if known else ""
    raise MissingWeightsError(
        f"no weights for {name!r}{about}",
        expected=f"a local folder, or a model in the hub cache: `hf download {name}` (HF_TOKEN for gated ones)",
    )


def _hub_snapshot(name: str) -> Path | None:
    if name.count("/") != 1 or name.startswith((".", "/")):
        return None
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub")) / f"models--{name.replace('/', '--')}"
    reference = cache / "refs" / "main"
    if not reference.is_file():
        return None
    snapshot = cache / "snapshots" / reference.read_text().strip()
    return snapshot if snapshot.is_dir() else None


@functools.cache
def model_digest(name: str) -> str:
    """16 hex digits over the names, sizes, and first and last MiB of every file of a model: cheap on 34 GB, and it
    changes when weights are trained again."""
    root = resolve_model(name)
    files = sorted(p for p in root.rglob("*") if p.is_file()) if root.is_dir() else [root]
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        relative = path.relative_to(root).as_posix() if path != root else path.name
        digest.update(f"{relative}\0{size}\0".encode())
        with open(path, "rb") as file:
            digest.update(file.read(_SAMPLE_BYTES))
            if size > _SAMPLE_BYTES:
                file.seek(max(size - _SAMPLE_BYTES, _SAMPLE_BYTES))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]
