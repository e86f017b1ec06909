from itertools import pairwise

import numpy as np
import torch

from microworld.scenes.captions import TAGS, VOCABULARY, sample_caption, sample_scene
from microworld.scenes.world import COLORS, SHAPES, Background, Scene, SceneObject, between, render
from microworld.training.flux_model import (
    TEXT_LENGTHS,
    VOCABULARY_SIZE,
    build_clip_text,
    build_t5,
    build_tokenizer,
)
from microworld.training.latent_pool import LatentPool, Tokenize, sample_training_text, token_labels
from microworld.training.pixel_scorer import fixed_captions, read_scene, score_images
from microworld.training.text_pretraining import HEAD_SIZES, noun_targets, pretrain_text
from microworld.training.vlm_images import CLEAR_MARGIN


def test_the_tokenizer_knows_every_word_and_keeps_the_separator_whole():
    tokenizer = build_tokenizer(clip=False)
    assert tokenizer.unk_token_id not in tokenizer(" ".join(VOCABULARY)).input_ids
    words = tokenizer.convert_ids_to_tokens(tokenizer("a red circle [Reflexion] Add 12 stars.").input_ids)
    assert words == ["a", "red", "circle", "[reflexion]", "add", "1", "2", "stars", ".", "</s>"]
    assert len(tokenizer) <= VOCABULARY_SIZE


def test_every_caption_fits_the_shortest_length_and_every_text_the_longest():
    tokenizer = build_tokenizer(clip=False)
    rng = np.random.default_rng(0)
    for tag in TAGS:
        texts = [sample_caption(rng, {tag: 1.0}).text for _ in range(50)]
        assert max(len(ids) for ids in tokenizer(texts).input_ids) <= TEXT_LENGTHS[0]
    texts = [sample_training_text(rng)[0] for _ in range(300)]
    num_tokens = Tokenize().num_tokens(texts)
    assert num_tokens.max() <= TEXT_LENGTHS[-1]
    assert all(((num_tokens > low) & (num_tokens <= high)).any() for low, high in pairwise((0, *TEXT_LENGTHS)))
    assert tokenizer.unk_token_id not in tokenizer(" ".join(texts)).input_ids


def test_clip_pools_the_same_with_more_padding():
    torch.manual_seed(0)
    tokenizer, clip = build_tokenizer(clip=True), build_clip_text().eval()
    pooled = [
        clip(**tokenizer("a red star", padding="max_length", max_length=n, return_tensors="pt")).pooler_output
        if n == TEXT_LENGTHS[0] + 2
        else clip(
            tokenizer("a red star", padding="max_length", max_length=n, return_tensors="pt").input_ids
        ).pooler_output
        for n in (TEXT_LENGTHS[0] + 2, tokenizer.model_max_length)
    ]
    torch.testing.assert_close(*pooled)


def test_the_pixel_scorer_accepts_truth_and_refuses_other_scenes():
    rng = np.random.default_rng(0)
    captions = fixed_captions(per_tag=10)
    images = list(render([sample_scene(rng, caption, varied_share=0.0) for caption in captions]).images)
    assert score_images(captions, images)["mean"] >= 0.95
    shuffled = score_images(captions, images[7:] + images[:7])
    assert shuffled["mean"] <= 0.2


def test_what_is_between_two_shapes_is_read_as_no_clear_shape_where_a_margin_is_asked_for():
    ground = Background("plain", (140, 140, 140), (140, 140, 140))
    names = [
        *SHAPES,
        between("circle", "square", 0.5),
        between("diamond", "star", 0.5),
        between("circle", "cross", 0.3),
    ]
    images = render([Scene(ground, (SceneObject(name, "red", 16, 16, 12.0),)) for name in names]).images
    assert [read_scene(i, CLEAR_MARGIN).objects[0].shape for i in images] == [*SHAPES, "blob", "blob", "blob"]
    assert all(read_scene(i).objects[0].shape in SHAPES for i in images)


def test_the_pixel_scorer_sees_nothing_in_noise_of_mid_tones():
    noise = np.random.default_rng(0).integers(100, 180, (32, 32, 3)).astype(np.uint8)
    assert read_scene(noise).objects == ()


def test_a_pool_is_found_again_and_draws_matching_rows(tmp_path):
    def encode(images):
        return torch.from_numpy(images.mean((1, 2, 3))).view(-1, 1, 1, 1).expand(-1, 4, 8, 8).float()

    pool = LatentPool(tmp_path, encode, seed=0)
    pool.grow(150)
    pool.grow(150)
    again = LatentPool(tmp_path, encode, seed=0)
    assert len(again) == len(pool) == 300
    for length in TEXT_LENGTHS:
        rows = again.draw(np.random.default_rng(0), 64, length)
        assert rows.latents.shape == (64, 4, 8, 8)
        assert rows.t5_ids.shape == (64, length)
        # CLIP's ids are T5's with a start token: rows were not mixed up.
        assert (rows.clip_ids[:, 1 : length + 1] == rows.t5_ids).all()
        assert rows.shapes.shape == rows.colors.shape == (64, 16)
        assert ((rows.shapes > 0) == (rows.colors > 0)).all()
    lengths = {again.draw(np.random.default_rng(i), 2).t5_ids.shape[1] for i in range(400)}
    assert lengths == set(TEXT_LENGTHS)


def test_token_labels_say_what_stands_where():
    scene = Scene(Background(), (SceneObject("square", "blue", 8, 8, 12), SceneObject("ring", "red", 24, 24, 12)))
    empty = Scene(Background(), ())
    shapes, colors = token_labels([scene, empty], render([scene, empty]))
    square, ring = 1 + list(SHAPES).index("square"), 1 + list(SHAPES).index("ring")
    assert shapes[0].reshape(4, 4)[:2, :2].tolist() == [[square] * 2] * 2
    assert shapes[0].reshape(4, 4)[2:, 2:].tolist() == [[ring] * 2] * 2
    assert colors[0].reshape(4, 4)[0, 0] == 1 + list(COLORS).index("blue")
    assert not shapes[0].reshape(4, 4)[:2, 2:].any()
    assert not shapes[1].any()
    assert not colors[1].any()


def test_noun_targets_point_at_nouns_and_mirror_relations():
    rng = np.random.default_rng(0)
    for tag in TAGS:
        for _ in range(20):
            caption = sample_caption(rng, {tag: 1.0})
            words = caption.text.split()
            rows = noun_targets(caption)
            assert [words[row[0]][:4] for row in rows] == [c.shape[:4] for c in caption.clauses]
            assert all(0 <= value < size for row in rows for value, size in zip(row[1:], HEAD_SIZES, strict=True))
            if tag == "position":
                assert rows[0][3] != rows[1][3]


def test_text_pretraining_learns():
    torch.manual_seed(0)
    t5, clip = build_t5(), build_clip_text()
    before = t5.shared.weight.detach().clone()
    pretrain_text(t5, clip, seconds=0.5, seed=0, batch_size=8)
    assert not torch.equal(before, t5.shared.weight)
