"""Production's classes at tiny random sizes, saved as the folders that the flux preset's flags can name."""

from pathlib import Path

from inference.grounding.groundingdino_py_loading import (
    FixedLengthTokenizer,
    GroundingDinoArchitecture,
    build_grounding_dino,
    save_grounding_dino,
)

WORDS = ("a", "photo", "of", "red", "green", "blue", "cat", "dog", "apple", "traffic", "light", "bench", "car", "and")
TINY_DINO = GroundingDinoArchitecture(
    short_px=64,
    long_px=96,
    swin_pretrain_px=32,
    swin_dim=8,
    swin_depths=(1, 1, 1, 1),
    swin_heads=(1, 1, 2, 2),
    swin_window=4,
    encoder_layers=1,
    decoder_layers=2,
    feedforward_dim=64,
    num_queries=20,
)


def save_tiny_bert(folder: Path) -> Path:
    """config.json and tokenizer of a one-layer BERT, whose special tokens have the ids of bert-base-uncased."""
    from transformers import BertConfig, BertTokenizerFast

    ids = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}
    ids |= {word: 1100 + i for i, word in enumerate(WORDS)}
    ids |= {f"##{letter}": 1200 + i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}
    ids |= {letter: 1300 + i for i, letter in enumerate("bcdefghijklmnopqrstuvwxyz")}
    BertTokenizerFast(vocab=ids, do_lower_case=True, model_max_length=512).save_pretrained(folder)
    config = BertConfig(
        vocab_size=1400,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=256,
    )
    config.save_pretrained(folder)
    return folder


def save_tiny_grounding_dino(folder: Path, bert: Path, seed: int = 0) -> Path:
    """Random weights; the box head too, so that boxes differ from each other."""
    import torch
    from transformers import AutoTokenizer, BertConfig

    torch.manual_seed(seed)
    tokenizer = FixedLengthTokenizer(AutoTokenizer.from_pretrained(bert), 16)
    network = build_grounding_dino(TINY_DINO, BertConfig.from_pretrained(bert), tokenizer)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "bbox_embed" in name and name.endswith("layers.2.weight"):
                torch.nn.init.normal_(parameter, std=0.3)
    save_grounding_dino(network, TINY_DINO, folder)
    return folder
