"""Builds the `groundingdino-py` package's network under transformers 5, offline, and reads its checkpoints.

The package was written for transformers 4: it takes three methods from `BertModel` that version 5 no longer has, and
loads BERT and its tokenizer by name from the hub. And a batch of different captions mixes up their attention masks.
Nothing installed is changed: while a network is being built, the package's own factories are replaced by ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from inference.model_store import resolve_model
from inference.sound_weights import check_numbers, sound_model
from schemas.errors import InputError, MissingWeightsError

if TYPE_CHECKING:
    import torch
    from torch import nn

HARMLESS_EXTRAS = {"label_enc.weight", "bert.embeddings.position_ids"}
"""In the official files, but not in the network: of its training, and a buffer that BERT computes."""


@dataclass(frozen=True)
class GroundingDinoArchitecture:
    """What may differ from the package's GroundingDINO_SwinT_OGC; its hidden size is 256 always.

    short_px, long_px: images are resized to this short side, but to no longer a side than that (the published demo).
    """

    short_px: int = 800
    long_px: int = 1333
    swin_pretrain_px: int = 224
    swin_dim: int = 96
    swin_depths: tuple[int, ...] = (2, 2, 6, 2)
    swin_heads: tuple[int, ...] = (3, 6, 12, 24)
    swin_window: int = 7
    encoder_layers: int = 6
    decoder_layers: int = 6
    feedforward_dim: int = 2048
    num_queries: int = 900


OFFICIAL = {
    "groundingdino_swint": GroundingDinoArchitecture(),
    "groundingdino_swinb": GroundingDinoArchitecture(
        swin_pretrain_px=384, swin_dim=128, swin_depths=(2, 2, 18, 2), swin_heads=(4, 8, 16, 32), swin_window=12
    ),
}


def load_grounding_dino(model: str, text_encoder: str, text_length: int) -> tuple[nn.Module, tuple[int, int]]:
    """The network in evaluation mode, on the CPU, and the (short, long) sides its images are resized to, in px.

    Its `tokenizer` pads every caption to `text_length` tokens. text_encoder: folder or hub id with BERT's config.json
    and tokenizer; BERT's weights are in the checkpoint.
    """
    from transformers import AutoTokenizer, BertConfig

    path, bert = sound_model(model), resolve_model(text_encoder)
    for name in ("config.json", "tokenizer_config.json"):
        if not (bert / name).is_file():
            raise MissingWeightsError(f"no {name} of BERT", file=str(bert), expected="a folder with BERT's tokenizer")
    architecture = read_architecture(path)
    network = build_grounding_dino(
        architecture,
        BertConfig.from_pretrained(bert),
        FixedLengthTokenizer(AutoTokenizer.from_pretrained(bert), text_length),
    )
    weights = read_weights(path / "model.safetensors" if path.is_dir() else path)
    try:
        problems = network.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # a tensor of another shape
        raise InputError(f"not the weights of this GroundingDINO: {error}", file=str(path)) from error
    # Layers share their box heads: a safetensors file names each tensor once.
    state = network.state_dict()
    loaded = {state[name].data_ptr() for name in weights if name in state}
    missing = [name for name in problems.missing_keys if state[name].data_ptr() not in loaded]
    unexpected = set(problems.unexpected_keys) - HARMLESS_EXTRAS
    if missing or unexpected:
        raise InputError(
            f"not the weights of this GroundingDINO: {len(missing)} missing, {len(unexpected)} unexpected, "
            f"e.g. {[*missing, *sorted(unexpected)][:2]}",
            file=str(path),
        )
    return network.eval().requires_grad_(False), (architecture.short_px, architecture.long_px)


class FixedLengthTokenizer:
    """The network asks for padding to the longest caption of a batch; a fixed length keeps every pass one shape."""

    def __init__(self, tokenizer: Any, text_length: int) -> None:
        self.tokenizer, self.text_length = tokenizer, text_length

    def __call__(self, texts: list[str], **_: Any) -> Any:
        return self.tokenizer(texts, padding="max_length", max_length=self.text_length, return_tensors="pt")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)


def build_grounding_dino(architecture: GroundingDinoArchitecture, bert_config: Any, tokenizer: Any) -> nn.Module:
    """The package's `GroundingDINO` with random weights. InputError where the package is not installed."""
    try:
        from groundingdino.config import GroundingDINO_SwinT_OGC as published
        from groundingdino.models.GroundingDINO import transformer
        from groundingdino.models.GroundingDINO.backbone import backbone, swin_transformer
        from groundingdino.models.GroundingDINO.groundingdino import build_groundingdino
        from groundingdino.util import get_tokenlizer
    except ImportError as error:
        raise InputError(
            f"groundingdino-py cannot be imported ({error})", expected="`pip install reflectionflow[gdino]`"
        ) from error
    a = architecture
    options = {name: value for name, value in vars(published).items() if not name.startswith("_")}
    options |= {
        "enc_layers": a.encoder_layers,
        "dec_layers": a.decoder_layers,
        "dim_feedforward": a.feedforward_dim,
        "num_queries": a.num_queries,
        # Gradient checkpointing has no place outside training.
        "use_checkpoint": False,
        "use_transformer_ckpt": False,
    }

    def build_swin(name: str, pretrain_img_size: int, **kwargs: Any) -> nn.Module:
        return swin_transformer.SwinTransformer(
            pretrain_img_size=a.swin_pretrain_px,
            embed_dim=a.swin_dim,
            depths=list(a.swin_depths),
            num_heads=list(a.swin_heads),
            window_size=a.swin_window,
            **kwargs,
        )

    class TextLayer(transformer.TransformerEncoderLayer):
        """The package repeats masks (B, L, L) head by head, where attention reads them image by image: with different
        captions in a batch, images saw each other's text. Repeated here, they pass through it as they are."""

        def forward(self, src: Any, src_mask: Any = None, src_key_padding_mask: Any = None, pos: Any = None) -> Any:
            """src (L, B, d), src_mask (B, L, L)."""
            return super().forward(src, src_mask.repeat_interleave(self.nhead, 0), src_key_padding_mask, pos)

    with (
        _replaced(transformer, "TransformerEncoderLayer", TextLayer),
        _replaced(get_tokenlizer, "get_tokenlizer", lambda name: tokenizer),
        _replaced(get_tokenlizer, "get_pretrained_language_model", lambda name: _bert_of_transformers_4(bert_config)),
        _replaced(backbone, "build_swin_transformer", build_swin),
    ):
        return build_groundingdino(SimpleNamespace(**options))


def _bert_of_transformers_4(config: Any) -> nn.Module:
    """A `BertModel` with the three methods that the package takes from it."""
    import torch
    from transformers import BertModel

    class Bert(BertModel):
        def get_extended_attention_mask(self, mask: torch.Tensor, shape: Any = None, device: Any = None) -> Any:
            """(B, L) or (B, L, L), true where a token may be seen -> additive (B, 1, L or 1, L)."""
            mask = mask[:, None, None] if mask.dim() == 2 else mask[:, None]
            return (1.0 - mask.to(self.dtype)) * torch.finfo(self.dtype).min

        def invert_attention_mask(self, mask: torch.Tensor) -> torch.Tensor:
            """The same, for the cross-attention that an encoder does not have."""
            return self.get_extended_attention_mask(mask)

        def get_head_mask(self, head_mask: Any, num_layers: int) -> list[None]:
            """No head is masked."""
            return [None] * num_layers

    config.return_dict = True
    return Bert(config)


@contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    original = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)


def read_architecture(path: Path) -> GroundingDinoArchitecture:
    """From a folder's config.json, or from an official checkpoint's name."""
    if path.is_file():
        for name, architecture in OFFICIAL.items():
            if path.name.startswith(name):
                return architecture
        raise InputError(
            "the file name does not say which GroundingDINO this is",
            file=str(path),
            expected=f"{' or '.join(OFFICIAL)}, then anything",
        )
    config = path / "config.json"
    if not config.is_file():
        raise MissingWeightsError("no config.json in this GroundingDINO folder", file=str(path))
    try:
        values: dict[str, Any] = json.loads(config.read_text())
        values |= {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return GroundingDinoArchitecture(**values)
    except (ValueError, TypeError, AttributeError) as error:
        names = ", ".join(f.name for f in fields(GroundingDinoArchitecture))
        raise InputError(f"not a GroundingDINO configuration: {error}", file=str(config), expected=names) from error


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """A state dict. Files that would have to be unpickled as code are refused."""
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise MissingWeightsError("GroundingDINO's weights are missing", file=str(path))
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            "this checkpoint holds more than weights and is refused (loading it could run code)",
            file=str(path),
            expected="the published checkpoint, a state dict of tensors, or a .safetensors file",
        ) from error
    except (SafetensorError, RuntimeError, OSError, EOFError) as error:
        raise InputError(f"unreadable weights: {error}", file=str(path)) from error
    weights = weights.get("model", weights) if isinstance(weights, dict) else weights
    if not isinstance(weights, dict) or not all(isinstance(v, torch.Tensor) for v in weights.values()):
        raise InputError("not a state dict of tensors", file=str(path))
    check_numbers(weights, path)
    return {name.removeprefix("module."): value for name, value in weights.items()}
