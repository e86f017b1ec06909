"""From conversations to tensors: turns about the same images packed into rows of one fixed length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from microworld.training.vlm_cells import find_names
from microworld.training.vlm_forward import PackedRows, patch_positions, patchify
from microworld.training.vlm_model import CELL_PX, IM_END, IM_START, IMAGE_PAD, VISION_END, VISION_START

if TYPE_CHECKING:
    from transformers import Qwen2Tokenizer

DEFAULT_SYSTEM = "You are a helpful assistant."  # what the chat template puts where nothing is said
IGNORED = -100
# A token of an answer of n tokens counts n to this power: one "Yes" decides as much as many words that follow from
# the first ones. At 0, yes and no were still guessed after seven minutes in which descriptions were learnt well.
LENGTH_POWER = -0.7
# The first token of an answer counts at least this: it decides which kind of answer it is, and weighed as one of sixty
# the opening of a JSON answer was unlearnt while the learning rate fell.
FIRST_WEIGHT = 0.4
_CACHE_SIZE = 200_000


@dataclass(frozen=True)
class Turn:
    """One question and its answer; `task` names it in curves. Without `sees_images` the images are hidden from it."""

    task: str
    question: str
    answer: str
    sees_images: bool = True


@dataclass(frozen=True)
class RowShape:
    """What all rows of a batch have in common: images (rows, columns of tokens) a row, and its length in tokens."""

    num_images: int
    grid: tuple[int, int]
    length: int


SINGLE = RowShape(num_images=1, grid=(4, 4), length=224)
OVERLAID = RowShape(num_images=1, grid=(4, 4), length=88)  # one question about what is drawn over the image
SIDE_BY_SIDE = RowShape(num_images=1, grid=(4, 8), length=352)  # two images in one of 64 x 32 px
TWO_IMAGES = RowShape(num_images=2, grid=(4, 4), length=352)


@dataclass(frozen=True)
class EncodedText:
    """Token ids, and of every name in the text its last token, shape and colour (`find_names`)."""

    ids: list[int]
    names: list[tuple[int, int, int]]


class RowPacker:
    """Turns -> `PackedRows`, token for token what the chat template gives for each turn alone."""

    def __init__(self, tokenizer: Qwen2Tokenizer, shape: RowShape) -> None:
        import torch

        self.shape = shape
        self._tokenizer = tokenizer
        self._cache: dict[str, EncodedText] = {}
        special = tokenizer.convert_tokens_to_ids
        system = f"{IM_START}system\n{DEFAULT_SYSTEM}{IM_END}\n{IM_START}user\n"
        self._text_prefix = tokenizer(system).input_ids
        rows, columns = shape.grid
        one_image = [special(VISION_START), *[special(IMAGE_PAD)] * (rows * columns), special(VISION_END)]
        self._prefix = self._text_prefix + one_image * shape.num_images
        self._columns = torch.tensor([i for i, token in enumerate(self._prefix) if token == special(IMAGE_PAD)])
        self._patch_positions = torch.from_numpy(patch_positions(rows, columns))
        self._prefix_positions = self._positions_of_prefix()
        self._to_answer = tokenizer(f"{IM_END}\n{IM_START}assistant\n").input_ids
        self._end = [special(IM_END)]
        self._padding = tokenizer.pad_token_id

    def _positions_of_prefix(self) -> np.ndarray:
        """Time, row and column of each token of the prefix, and of the one after it: int64 (3, len + 1)."""
        rows, columns = self.shape.grid
        start = len(self._text_prefix)
        parts = [np.tile(np.arange(start), (3, 1))]
        for _ in range(self.shape.num_images):
            y, x = np.mgrid[:rows, :columns].reshape(2, -1)
            image = np.stack([np.zeros_like(y), y, x]) + start + 1
            end = start + 1 + max(rows, columns)
            parts += [np.full((3, 1), start), image, np.full((3, 1), end)]
            start = end + 1
        return np.concatenate([*parts, np.full((3, 1), start)], 1).astype(np.int64)

    @property
    def room(self) -> int:
        """Tokens that a row has for turns."""
        return self.shape.length - len(self._prefix)

    def num_tokens(self, turn: Turn) -> int:
        question, answer = self._encode([turn.question, turn.answer])
        return len(question.ids) + len(self._to_answer) + len(answer.ids) + 1

    def _encode(self, texts: Sequence[str]) -> list[EncodedText]:
        unknown = list(dict.fromkeys(text for text in texts if text not in self._cache))
        if unknown:
            if len(self._cache) > _CACHE_SIZE:
                self._cache.clear()
                unknown = list(dict.fromkeys(texts))
            backend = self._tokenizer.backend_tokenizer
            backend.no_padding()  # a processor that shares the tokenizer leaves it padding: answers would begin with it
            encoded = backend.encode_batch(unknown, add_special_tokens=False)
            for text, tokens in zip(unknown, encoded, strict=True):
                names = [
                    (token, shape, color)
                    for at, shape, color in find_names(text)
                    if (token := tokens.char_to_token(at)) is not None
                ]
                self._cache[text] = EncodedText(tokens.ids, names)
        return [self._cache[text] for text in texts]

    def pack(self, images: np.ndarray, turns: Sequence[Sequence[Turn]]) -> tuple[PackedRows, list[list[Turn]]]:
        """images uint8 (B, num_images, H, W, 3); of each row's turns, those that fit, in order, and which they are."""
        import torch

        if images.shape[2:4] != (self.shape.grid[0] * CELL_PX, self.shape.grid[1] * CELL_PX):
            raise ValueError(f"images of {images.shape[2:4]} px do not make a grid of {self.shape.grid} tokens")
        size, length = len(turns), self.shape.length
        ids = np.full((size, length), self._padding, np.int64)
        turn_of = np.full((size, length), -1, np.int64)
        visible = np.zeros((size, length), np.int64)
        positions = np.zeros((3, size, length), np.int64)
        targets = np.full((size, length), IGNORED, np.int64)
        weights = np.zeros((size, length), np.float32)
        start = len(self._prefix)
        ids[:, :start], turn_of[:, :start], visible[:, :start] = self._prefix, 0, start
        positions[:, :, :start] = self._prefix_positions[:, None, :-1]
        encoded = iter(self._encode([text for row in turns for turn in row for text in (turn.question, turn.answer)]))
        kept: list[list[Turn]] = [[] for _ in turns]
        names: list[tuple[int, int, int, int]] = []
        for b, row in enumerate(turns):
            at = start
            for turn in row:
                question, answer = next(encoded), next(encoded)
                tokens = [*question.ids, *self._to_answer, *answer.ids, *self._end]
                if at + len(tokens) > length:
                    continue
                kept[b].append(turn)
                here = slice(at, at + len(tokens))
                ids[b, here], turn_of[b, here] = tokens, len(kept[b])
                before = start if turn.sees_images else len(self._text_prefix)
                visible[b, here] = before
                first = self._prefix_positions[0, -1] if turn.sees_images else before
                positions[:, b, here] = first + np.arange(len(tokens))
                if turn.sees_images:
                    says_at = at + len(question.ids) + len(self._to_answer)
                    for begin, text in ((at, question), (says_at, answer)):
                        names += [(b, begin + token, shape, color) for token, shape, color in text.names]
                learnt = len(answer.ids) + 1
                says = slice(at + len(tokens) - learnt - 1, at + len(tokens) - 1)
                targets[b, says], weights[b, says] = tokens[-learnt:], learnt**LENGTH_POWER
                weights[b, says.start] = max(weights[b, says.start], FIRST_WEIGHT)
                at += len(tokens)
        patches = patchify(images.reshape(-1, *images.shape[2:]))
        ids, turn_of, visible, positions, targets, weights, patches = (
            torch.from_numpy(a) for a in (ids, turn_of, visible, positions, targets, weights, patches)
        )
        places = (self._columns, self._patch_positions)
        named = torch.tensor(names, dtype=torch.int64).reshape(-1, 4)
        rows = PackedRows(ids, turn_of, visible, positions, targets, weights, patches, *places, named)
        return rows, kept
