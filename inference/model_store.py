"""From a model's name to its folder, and from a folder to a digest.

A name is a model that ships with this project ("micro/flux"), a local path, or a hub id
("black-forest-labs/FLUX.1-dev"; with a folder of it: "diffusion-cot/Reflection-Generator/infer/30000") that is already
in the local hub cache. Nothing is downloaded behind anybody's back.
"""

import functools
import hashlib
import importlib.util
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import InputError, MissingWeightsError
from schemas.hub_storage import cached_snapshot, looks_local
from schemas.own_modules import full_name

SHIPPED = {"micro": "microworld"}
"""First part of a shipped name -> the package whose folder holds what is named. It need not be installed."""
ADAPTER = "adapter_config.json"
WEIGHTS = "REFLECTIONFLOW_WEIGHTS"
"""Environment variable: a folder where files of weights are looked for when they are not in the working directory."""
_NAMES = "the path of a model that is here, or a hub id (ORG/NAME) of one in the hub cache"
_SAMPLE_BYTES = 2**20


@dataclass(frozen=True)
class HubModel:
    """What a person needs to know before fetching a model. source: of a model that is not fetched by its hub id.
    include: patterns of the files that are read, where its repository has many others."""

    size: str
    licence: str
    source: str | None = None
    include: tuple[str, ...] = ()


_DIFFUSERS = ("*.json", "*/*")  # a folder a component; the single files at the top hold the same weights once more
_TRANSFORMERS = ("*.json", "*.txt", "model.safetensors")  # and not the same weights for other libraries


KNOWN_MODELS: dict[str, HubModel] = {
    "black-forest-labs/FLUX.1-dev": HubModel(
        "34 GB", "FLUX.1 [dev] non-commercial, gated: accept it on the model page", include=_DIFFUSERS
    ),
    "black-forest-labs/FLUX.1-schnell": HubModel("34 GB", "Apache-2.0", include=_DIFFUSERS),
    "Qwen/Qwen-Image": HubModel("58 GB", "Apache-2.0"),
    "Qwen/Qwen-Image-Edit": HubModel("58 GB", "Apache-2.0"),
    "Qwen/Qwen-Image-Edit-2509": HubModel("58 GB", "Apache-2.0"),
    "Qwen/Qwen-Image-Edit-2511": HubModel("58 GB", "Apache-2.0"),
    "black-forest-labs/FLUX.1-Kontext-dev": HubModel(
        "34 GB as a folder of diffusers",
        "FLUX.1 [dev] non-commercial, gated: accept it on the model page",
        include=_DIFFUSERS,
    ),
    "meituan-longcat/LongCat-Image-Edit": HubModel("as its model page says", "Apache-2.0"),
    "black-forest-labs/FLUX.2-klein-9b-kv": HubModel(
        "as its model page says", "FLUX non-commercial", include=_DIFFUSERS
    ),
    "black-forest-labs/FLUX.2-klein-4B": HubModel("16 GB as a folder of diffusers", "Apache-2.0", include=_DIFFUSERS),
    "black-forest-labs/FLUX.2-dev": HubModel(
        "about 113 GB as a folder of diffusers",
        "FLUX non-commercial, gated: accept it on the model page",
        include=_DIFFUSERS,
    ),
    "Tongyi-MAI/Z-Image": HubModel("21 GB of 16-bit numbers; more where files are float32", "Apache-2.0"),
    "Tongyi-MAI/Z-Image-Turbo": HubModel("21 GB of 16-bit numbers; more where files are float32", "Apache-2.0"),
    "stabilityai/stable-diffusion-3.5-large": HubModel(
        "27 GB as a folder of diffusers", "Stability AI community licence, gated: accept it on the model page"
    ),
    "Efficient-Large-Model/Sana_1600M_512px_diffusers": HubModel("12 GB", "as its model page says"),
    "HuggingFaceM4/idefics2-8b": HubModel("33.6 GB in float32", "Apache-2.0"),
    "Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers": HubModel("9 GB of 16-bit numbers", "as its model page says"),
    "stabilityai/stable-diffusion-xl-base-1.0": HubModel(
        "7 GB as a folder of diffusers in float16", "CreativeML Open RAIL++-M"
    ),
    "IDEA-Research/grounding-dino-tiny": HubModel("0.7 GB", "Apache-2.0"),
    "IDEA-Research/grounding-dino-base": HubModel("0.9 GB", "Apache-2.0"),
    "groundingdino_swint_ogc.pth": HubModel(
        "0.7 GB",
        "Apache-2.0",
        "https://github.com/IDEA-Research/GroundingDINO/releases/download/v0.1.0-alpha/groundingdino_swint_ogc.pth",
    ),
    "groundingdino_swinb_cogcoor.pth": HubModel(
        "0.9 GB",
        "Apache-2.0",
        "https://github.com/IDEA-Research/GroundingDINO/releases/download/v0.1.0-alpha2/groundingdino_swinb_cogcoor.pth",
    ),
    "google-bert/bert-base-uncased": HubModel(
        "0.4 GB, of which config and tokenizer are used", "Apache-2.0", include=("*.json", "vocab.txt")
    ),
    "sam_vit_h_4b8939.pth": HubModel(
        "2.6 GB", "Apache-2.0", "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_h_4b8939.pth"
    ),
    "openai/clip-vit-large-patch14": HubModel("1.7 GB", "MIT", include=_TRANSFORMERS),
    "facebook/dinov2-base": HubModel("0.3 GB", "Apache-2.0", include=_TRANSFORMERS),
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": HubModel("3.9 GB", "MIT", include=_TRANSFORMERS),
    "yuvalkirstain/PickScore_v1": HubModel("3.9 GB", "MIT", include=_TRANSFORMERS),
    "HPS_v2.1_compressed.pt": HubModel(
        "2.0 GB", "Apache-2.0", "https://huggingface.co/xswu/HPSv2/resolve/main/HPS_v2.1_compressed.pt"
    ),
    "facebook/mask2former-swin-small-coco-instance": HubModel("0.3 GB", "as its model page says (Mask2Former: MIT)"),
    "diffusion-cot/FLUX-Corrector": HubModel("0.5 GB", "none stated on its card; its base model's is non-commercial"),
    "diffusion-cot/Reflection-Generator/infer/30000": HubModel("16.6 GB", "none stated on its card"),
    "Qwen/Qwen2.5-VL-7B-Instruct": HubModel("16.6 GB", "Apache-2.0"),
    "Qwen/Qwen3-VL-8B-Instruct": HubModel("17.5 GB", "Apache-2.0"),
    "Qwen/Qwen2.5-VL-3B-Instruct": HubModel("7.5 GB", "Qwen research licence, non-commercial"),
    "Qwen/Qwen2.5-VL-32B-Instruct": HubModel("67 GB", "Apache-2.0"),
    "Qwen/Qwen3-VL-4B-Instruct": HubModel("8.9 GB", "Apache-2.0"),
    "OpenGVLab/InternVL3_5-8B-HF": HubModel("17.1 GB", "Apache-2.0"),
    "google/gemma-3-4b-it": HubModel("8.6 GB", "Gemma terms of use, gated: accept them on the model page"),
    "diffusion-cot/Image-Verifier": HubModel(
        "3.5 GB, and its base model Qwen/Qwen2.5-VL-3B-Instruct, 7.5 GB",
        "none stated on its card; its base model: Qwen research licence, non-commercial",
    ),
    "MizzenAI/HPSv3": HubModel(
        "16.6 GB (7B, bfloat16), and config and processor of Qwen/Qwen2-VL-7B-Instruct",
        "as its model page says (its code: MIT)",
    ),
    "Qwen/Qwen2-VL-7B-Instruct": HubModel("16.6 GB, of which HPSv3 reads the small files alone", "Apache-2.0"),
    "THUDM/ImageReward": HubModel("1.8 GB", "as its model page says (its code: Apache-2.0)"),
    "facebook/sam2.1-hiera-large": HubModel("0.9 GB", "Apache-2.0"),
    "facebook/sam3": HubModel("3.4 GB", "SAM licence, gated: accept it on the model page"),
    "openmmlab-community/mm_grounding_dino_tiny_o365v1_goldg_v3det": HubModel("0.7 GB", "Apache-2.0"),
    "openmmlab-community/mm_grounding_dino_base_all": HubModel("0.9 GB", "Apache-2.0"),
    "Efficient-Large-Model/NVILA-Lite-2B-Verifier": HubModel("about 4 GB, with code of its own", "CC-BY-NC-4.0"),
}


def known_model(name: str) -> HubModel | None:
    """What is known of a model, by its hub id or, of a file, wherever that lies; None for any other."""
    return KNOWN_MODELS.get(Path(name).name if name.endswith((".pth", ".pt", ".safetensors")) else name)


def shipped_path(name: str, kind: str) -> Path | None:
    """Where something with a shipped name lies ("micro/flux" of the kind "weights"), whether it is there or not; None
    for any other name. MissingWeightsError where the package that holds it is not installed."""
    first, slash, rest = name.partition("/")
    if not slash or first not in SHIPPED:
        return None
    return shipped_package(first) / kind / rest


def shipped_package(name: str) -> Path:
    """The folder of the package behind the first part of a shipped name. MissingWeightsError."""
    found = importlib.util.find_spec(full_name(SHIPPED[name]))  # looks it up and imports nothing
    if found is None or not found.submodule_search_locations:
        raise MissingWeightsError(f"{name!r} is the package {SHIPPED[name]!r}'s", expected="a full clone")
    return Path(found.submodule_search_locations[0])


def base_model_of(folder: Path) -> str | None:
    """The base model's name, for an adapter's folder; None for any other. InputError for an adapter without one."""
    try:
        said = json.loads((folder / ADAPTER).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    name = said.get("base_model_name_or_path") if isinstance(said, dict) else None
    if not isinstance(name, str) or not name:
        raise InputError("names no base model", file=str(folder / ADAPTER), field="base_model_name_or_path")
    return name


def fetch_line(name: str) -> str:
    """What to type to have a model, and of its repository the files that are read."""
    known = known_model(name)
    if known and known.source:
        return f"curl -LO {known.source}"
    repository, folder = _hub_parts(name)
    patterns = (f"{folder}/*",) if folder else known.include if known else ()
    return " ".join((f"hf download {repository}", *(f"--include '{pattern}'" for pattern in patterns)))


def resolve_model(name: str) -> Path:
    """The local folder (or file) of a model. MissingWeightsError says how to get one that is not here."""
    shipped = shipped_path(name, "weights")
    if shipped is not None:
        if shipped.is_dir():
            return shipped
        there = sorted(path.name for path in shipped.parent.glob("*") if path.is_dir())
        raise MissingWeightsError(
            f"the shipped model {name!r} is not in {shipped.parent}",
            expected=f"one that is there ({', '.join(there) or 'none'}), or a full clone of the repository",
        )
    for path in (Path(name).expanduser(), Path(os.environ.get(WEIGHTS, ""), name)):
        if path.exists():
            return path
    cached = _hub_snapshot(name)
    if cached is not None:
        return cached
    known = known_model(name)
    if not _is_fetched(name):
        raise MissingWeightsError(f"no weights for {name!r}: there is no such file or folder", expected=_NAMES)
    about = f" ({known.size}; licence: {known.licence})" if known else ""
    if not known and name.count("/") > 1:
        about = ": there is no such folder, here or in the hub cache"
    how = f"a local folder, or a model in the hub cache: `{fetch_line(name)}` (HF_TOKEN for gated ones)"
    if known and known.source:
        how = f"the file at this path (absolute for a cluster): `{fetch_line(name)}`"
    raise MissingWeightsError(f"no weights for {name!r}{about}", expected=how)


def fetch_lines(names: Iterable[str]) -> list[str]:
    """What to type, one command a line, for the models that are not on this machine. MissingWeightsError for one that
    no command fetches: a path of nothing, a shipped one."""
    lines = []
    for name in dict.fromkeys(names):
        try:
            resolve_model(name)
        except MissingWeightsError:
            if not _is_fetched(name):
                raise
            lines.append(fetch_line(name))
    return lines


def require_models(names: Iterable[str]) -> None:
    """One MissingWeightsError that names every model that is not on this machine, so that all are fetched at once."""
    missing: list[MissingWeightsError] = []
    for name in names:
        try:
            resolve_model(name)
        except MissingWeightsError as error:
            missing.append(error)
    if len(missing) == 1:
        raise missing[0]
    if missing:
        lines = [f"{error.problem}\n    expected: {error.expected}" for error in missing]
        raise MissingWeightsError(f"{len(missing)} models are not here:\n  " + "\n  ".join(lines))


def _is_fetched(name: str) -> bool:
    """Whether what is not here may be fetched by its name."""
    shipped = name.partition("/")[0] in SHIPPED
    return known_model(name) is not None or not (shipped or looks_local(name))


def _hub_parts(name: str) -> tuple[str, str]:
    """A hub id's repository, and the folder in it ("" for all of it)."""
    owner, _, rest = name.partition("/")
    repository, _, folder = rest.partition("/")
    return f"{owner}/{repository}", folder.strip("/")


def _hub_snapshot(name: str) -> Path | None:
    repository, folder = _hub_parts(name)
    snapshot = None if ".." in folder.split("/") else cached_snapshot("models", repository)
    if snapshot is None or not (snapshot / folder).is_dir():
        return None
    return snapshot / folder


def _based_on(folder: Path) -> list[str]:
    """The base model that is loaded with a folder, if any."""
    from inference.vlm import reward_checkpoint

    if not reward_checkpoint.is_reward_checkpoint(folder):
        base = base_model_of(folder)
        return [] if base is None else [base]
    base = reward_checkpoint.base_named(folder)
    try:
        return [] if base is None or not resolve_model(base) else [base]
    except MissingWeightsError:
        return []


@functools.cache
def model_digest(name: str) -> str:
    """16 hex digits over the names, sizes, and first and last MiB of every file of a model: cheap on 34 GB, and it
    changes when weights are trained again. An adapter's has its base model's in it; so has a published reward
    checkpoint's, where that base model is here (another may be named in its place, which then has its own digest)."""
    from inference.vlm import reward_checkpoint

    root = resolve_model(name)
    files = sorted(p for p in root.rglob("*") if p.is_file()) if root.is_dir() else [root]
    digest = hashlib.sha256()
    for path in _based_on(root):
        digest.update(model_digest(path).encode())
    if reward_checkpoint.is_reward_checkpoint(root):
        files = [p for p in files if p.name != "training_args.bin"] + reward_checkpoint.files_read(root)
    for path in files:
        size = path.stat().st_size
        relative = path.relative_to(root).as_posix() if path.is_relative_to(root) and path != root else path.name
        digest.update(f"{relative}\0{size}\0".encode())
        with open(path, "rb") as file:
            digest.update(file.read(_SAMPLE_BYTES))
            if size > _SAMPLE_BYTES:
                file.seek(max(size - _SAMPLE_BYTES, _SAMPLE_BYTES))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]
