"""Teach the text encoders what captions mean before any image: a minute that FLUX need not spend on grammar.

T5's vector at every noun must tell that noun's colour, count, relation and partner; CLIP's pooled vector must tell
which shapes, colours and counts occur. The linear heads are thrown away afterwards.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from microworld.scenes.captions import RELATIONS, Caption, class_plural, sample_training_caption
from microworld.scenes.world import COLORS, SHAPES
from microworld.training.flux_model import TEXT_LENGTHS
from microworld.training.latent_pool import Tokenize

if TYPE_CHECKING:
    from transformers import CLIPTextModel, T5EncoderModel

_SHAPES, _COLORS, _RELATIONS = list(SHAPES), list(COLORS), list(RELATIONS)
HEAD_SIZES = (len(_COLORS) + 1, 4, len(_RELATIONS) + 1, len(_SHAPES) + 1)  # colour, count, relation, partner
NUM_FACTS = len(_SHAPES) + len(_COLORS) + 4


def noun_targets(caption: Caption) -> list[tuple[int, int, int, int, int]]:
    """One row a noun: token position, then the class index of each head (0 = none where that exists)."""
    words = caption.text.split()
    rows = []
    for index, clause in enumerate(caption.clauses):
        noun = clause.shape if clause.count == 1 else class_plural(clause.shape)
        partner = relation = 0
        if len(caption.clauses) == 2:
            other = caption.clauses[1 - index]
            partner = 1 + _SHAPES.index(other.shape)
            if clause.relation:
                relation = 1 + _RELATIONS.index(clause.relation[0])
            elif other.relation:
                relation = 1 + _RELATIONS.index(RELATIONS[other.relation[0]])
        color = 1 + _COLORS.index(clause.color) if clause.color else 0
        rows.append((words.index(noun), color, clause.count - 1, relation, partner))
    return rows


def facts(caption: Caption) -> np.ndarray:
    """float32 (NUM_FACTS,) of 0 and 1: shapes, colours and counts that the caption names."""
    present = np.zeros(NUM_FACTS, np.float32)
    for clause in caption.clauses:
        present[_SHAPES.index(clause.shape)] = 1
        if clause.color:
            present[len(_SHAPES) + _COLORS.index(clause.color)] = 1
        present[len(_SHAPES) + len(_COLORS) + clause.count - 1] = 1
    return present


def pretrain_text(t5: T5EncoderModel, clip: CLIPTextModel, seconds: float, seed: int, batch_size: int = 128) -> float:
    """Train both in place, for `seconds` at most; returns the running accuracy of T5's heads, in [0, 1]."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    device = t5.device
    rng = np.random.default_rng([seed, 5])
    tokenize = Tokenize()
    heads = nn.Linear(t5.config.d_model, sum(HEAD_SIZES)).to(device)
    fact_head = nn.Linear(clip.config.hidden_size, NUM_FACTS).to(device)
    parameters = [p for m in (t5, clip, heads, fact_head) for p in m.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, betas=(0.9, 0.99))
    accuracy, num_steps = 0.0, 0
    start = time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds and accuracy < 0.995:
        captions = [sample_training_caption(rng) for _ in range(batch_size)]
        ids = tokenize([c.text for c in captions], TEXT_LENGTHS[0])
        t5_ids, clip_ids = (torch.from_numpy(i).long().to(device) for i in ids)
        nouns = torch.tensor([(i, *row) for i, c in enumerate(captions) for row in noun_targets(c)], device=device)
        vectors = t5(input_ids=t5_ids)[0][nouns[:, 0], nouns[:, 1]]
        logits = heads(vectors).split(HEAD_SIZES, dim=-1)
        losses = [F.cross_entropy(logit, nouns[:, 2 + i]) for i, logit in enumerate(logits)]
        truth = torch.from_numpy(np.stack([facts(c) for c in captions])).to(device)
        pooled = clip(input_ids=clip_ids).pooler_output
        loss = sum(losses) + F.binary_cross_entropy_with_logits(fact_head(pooled), truth)
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (num_steps + 1) / 50, 1.2 - spent / seconds)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        right = torch.stack([logit.argmax(-1) == nouns[:, 2 + i] for i, logit in enumerate(logits)])
        num_steps += 1
        accuracy += (right.all(0).float().mean().item() - accuracy) * max(0.05, 1 / num_steps)
    print(f"flux: text pretraining took {num_steps} steps", flush=True)
    return accuracy
