import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from inference.search import NOTHING_WRONG
from microworld.scenes.captions import VOCABULARY, class_plural, sample_scene, sample_training_caption
from microworld.scenes.corrections import compare, corrections
from microworld.scenes.instructions import parse_instruction
from microworld.scenes.long_captions import LONG
from microworld.scenes.world import COLORS, random_scene, render
from microworld.scenes.world import SHAPES as SHAPES_OF_THE_WORLD
from microworld.training import vlm_forward
from microworld.training.vlm_cells import (
    NUM_PLACES,
    cell_targets,
    cells_side_by_side,
    find_names,
    looking_loss,
    naming_loss,
    places_of_names,
)
from microworld.training.vlm_data import (
    NO,
    YES,
    DataConfig,
    SubjectSource,
    pair_turns,
    reflect,
    sample_rows,
    sample_texts,
    verify,
)
from microworld.training.vlm_forward import PackedForward, patch_positions, patchify
from microworld.training.vlm_images import ImagePool, PooledImage
from microworld.training.vlm_model import (
    IM_END,
    MAX_LENGTH,
    SPECIAL_TOKENS,
    VOCABULARY_SIZE,
    VlmShape,
    build_tokenizer,
    build_vlm,
    tokenizer_from_vocabulary,
    tokenizer_state,
)
from microworld.training.vlm_rows import SIDE_BY_SIDE, SINGLE, TWO_IMAGES, RowPacker
from tests.support.tiny_vlm import TINY_SHAPE, save_tiny_vlm, tiny_tokenizer

SHAPES = (SINGLE, SIDE_BY_SIDE, TWO_IMAGES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_vlm(tmp_path_factory.mktemp("vlm"))


@pytest.fixture(scope="module")
def source():
    return SubjectSource(DataConfig())


def test_the_vocabulary_is_deterministic_survives_a_checkpoint_and_spells_any_text():
    tokenizer = tiny_tokenizer()
    assert build_tokenizer(sample_texts(0, 30)).get_vocab() == tokenizer.get_vocab()
    state: dict[str, Any] = tokenizer_state(tokenizer)
    again = tokenizer_from_vocabulary(state["vocabulary"], state["merges"])
    text = 'A red star, "Zürich" — 星 {"score": 10}\n<|im_end|>'
    assert again(text).input_ids == tokenizer(text).input_ids
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert len(tokenizer) <= VOCABULARY_SIZE
    assert all(len(tokenizer(token).input_ids) == 1 for token in SPECIAL_TOKENS)


def test_common_words_are_one_token_each():
    words = [f" {word}" for word in VOCABULARY if word.isalpha()]
    split = [word for word in words if len(tiny_tokenizer()(word).input_ids) > 1]
    assert split == []


def test_the_shipped_size_fits_its_file():
    with torch.device("meta"):
        model = build_vlm(tiny_tokenizer(), VlmShape())
    assert sum(p.numel() for p in model.parameters()) * 2 < 16e6


@pytest.mark.parametrize("shape", SHAPES)
def test_packed_turns_are_the_conversations_that_transformers_sees(folder, shape):
    """Pixels, tokens, positions and masks: the logits of every answer are those of its turn alone."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    rng = np.random.default_rng(0)
    sampled = sample_rows(rng, SubjectSource(DataConfig()), shape, 3)
    images, turns = sampled.images, sampled.turns
    rows, kept = RowPacker(processor.tokenizer, shape).pack(images, turns)
    with torch.no_grad():
        logits = model.lm_head(PackedForward(model).hidden_states(rows)[0])
    for b in range(len(turns)):
        for index, turn in enumerate(kept[b], start=1):
            shown = list(images[b]) if turn.sees_images else []
            content = [*({"type": "image"} for _ in shown), {"type": "text", "text": turn.question}]
            messages = [{"role": "user", "content": content}]
            text = processor.apply_chat_template(messages, add_generation_prompt=True) + turn.answer + IM_END
            inputs = processor(text=[text], images=shown or None, return_tensors="pt")
            with torch.no_grad():
                expected = model(**inputs).logits[0]
            here = rows.turn[b] == index
            assert torch.equal(rows.ids[b][here], inputs["input_ids"][0, -int(here.sum()) :])
            torch.testing.assert_close(logits[b][here], expected[-int(here.sum()) :], rtol=1e-4, atol=1e-4)
            learnt = rows.targets[b][here]
            answer = processor.tokenizer(turn.answer + IM_END).input_ids
            assert learnt[learnt >= 0].tolist() == answer
            if shown:
                mine = rows.patches.view(len(turns), -1, rows.patches.shape[-1])[b]
                assert torch.equal(mine, inputs["pixel_values"])


def test_compiled_blocks_are_not_needed_for_gradients_to_reach_every_weight(source):
    model = build_vlm(tiny_tokenizer(), TINY_SHAPE)
    sampled = sample_rows(np.random.default_rng(0), source, SINGLE, 2)
    rows, _ = RowPacker(tiny_tokenizer(), SINGLE).pack(sampled.images, sampled.turns)
    found = PackedForward(model).answer_loss(rows)
    assert found.features.shape[:2] == sampled.cells.shape[:2]
    assert found.named.shape == (len(rows.names), TINY_SHAPE.width)
    found.loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert 0 <= found.accuracy <= 1


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_are_full_and_no_turn_is_too_long_for_the_model(source, shape):
    packer = RowPacker(tiny_tokenizer(), shape)
    sampled = sample_rows(np.random.default_rng(1), source, shape, 30)
    images, turns = sampled.images, sampled.turns
    rows, kept = packer.pack(images, turns)
    assert float((rows.turn >= 0).float().mean()) > 0.8
    tasks = Counter(turn.task for row in kept for turn in row)
    expected = {"verify", "yes_no", "count", "reflect"} if shape is SINGLE else {"compare", "side"}
    assert expected <= set(tasks)
    assert max(packer.num_tokens(turn) for row in turns for turn in row) < MAX_LENGTH / 2


@pytest.mark.parametrize("shape", SHAPES)
def test_names_stand_where_their_tokens_are(source, shape):
    packer = RowPacker(tiny_tokenizer(), shape)
    sampled = sample_rows(np.random.default_rng(5), source, shape, 4)
    rows, kept = packer.pack(sampled.images, sampled.turns)
    said = {(row, column): (shape, color) for row, column, shape, color in rows.names.tolist()}
    assert len(said) == len(rows.names) > 10
    for (row, column), (number, _) in said.items():
        text = tiny_tokenizer().decode(rows.ids[row, : column + 1])
        kind = list(SHAPES_OF_THE_WORLD)[number]
        assert text.endswith((kind, class_plural(kind)))
    expected = sum(len(find_names(t.question)) + len(find_names(t.answer)) for r in kept for t in r if t.sees_images)
    assert len(rows.names) == expected


def test_names_and_their_places():
    shapes, colors = list(SHAPES_OF_THE_WORLD), list(COLORS)
    text = "Are two red stars left of a circle?"
    assert find_names(text) == [
        (text.index("stars") + 4, shapes.index("star"), colors.index("red")),
        (text.index("circle") + 5, shapes.index("circle"), -1),
    ]
    scene = random_scene(np.random.default_rng(3), 1)
    cells = torch.from_numpy(cell_targets([scene, scene]))
    (item,) = scene.objects
    own, other = (colors.index(c) for c in (item.color, next(c for c in colors if c != item.color)))
    number, cell = shapes.index(item.shape), int(cells[0, :, 0].argmax())
    names = torch.tensor([[0, 9, number, own], [1, 9, number, -1], [1, 9, number, other]])
    right = torch.full((3, NUM_PLACES), -20.0)
    right[:2, cell] = 20.0  # and nowhere for a colour that is not there
    assert naming_loss(right, places_of_names(names, cells), False) < 1e-6
    assert naming_loss(-right, places_of_names(names, cells), False) > 100
    wide = torch.from_numpy(cells_side_by_side(cells.numpy()))[None]
    both = torch.full((1, NUM_PLACES), -20.0)
    both[0, 16 + 8 * (cell // 4) + cell % 4] = both[0, 16 + 8 * (cell // 4) + 4 + cell % 4] = 20.0
    assert naming_loss(both, places_of_names(names[:1], wide), True) < 1e-6
    apart = torch.full((1, NUM_PLACES), -20.0)
    apart[0, 48 + cell] = apart[0, 64 + cell] = 20.0
    assert naming_loss(apart, places_of_names(names[:1], cells.reshape(1, 32, -1)), False) < 1e-6


def test_where_the_tokens_of_names_look(source):
    """The logits are those of the attention itself; the loss is zero for a look at what is named, and at the sink."""
    model = build_vlm(tiny_tokenizer(), TINY_SHAPE)
    sampled = sample_rows(np.random.default_rng(0), source, SINGLE, 2)
    rows, _ = RowPacker(tiny_tokenizer(), SINGLE).pack(sampled.images, sampled.turns)
    forward = PackedForward(model)
    seen = []
    attend = vlm_forward._attend

    def watch(query, key, value, bias):
        if bias is not None:
            scores = (query[:, :1] @ key[:, :1].transpose(-1, -2)).float() * query.shape[-1] ** -0.5 + bias
            seen.append(scores[:, 0])
        return attend(query, key, value, bias)

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(vlm_forward, "_attend", watch)
        found = forward.answer_loss(rows)
    row, column = rows.names[:, 0], rows.names[:, 1]
    torch.testing.assert_close(found.looks, seen[vlm_forward.LOOKING_LAYER - 1][row, column])
    there = places_of_names(rows.names, torch.from_numpy(sampled.cells))
    assert there.any(1).float().mean() > 0.5
    looks = torch.full_like(found.looks, -30.0)
    looks[:, rows.image_columns[0] - 1] = 0.0
    columns = looks[:, rows.image_columns]
    columns[there] = 0.0
    looks[:, rows.image_columns] = columns
    assert looking_loss(looks, there, rows.image_columns) == pytest.approx(0, abs=1e-4)
    assert looking_loss(found.looks, there, rows.image_columns) > 0.5


def test_cells_of_two_images_lie_where_the_wide_image_has_them():
    left, right = random_scene(np.random.default_rng(1), 1), random_scene(np.random.default_rng(2), 1)
    apart = cell_targets([left, right])
    wide = cells_side_by_side(apart)
    (a,), (b,) = (np.flatnonzero(cells[:, 0]) for cells in apart)
    assert wide[8 * (b // 4) + 4 + b % 4, 2] == apart[1, b, 2] + 4  # columns of the whole image
    assert np.flatnonzero(wide[:, 0]).tolist() == sorted([8 * (a // 4) + a % 4, 8 * (b // 4) + 4 + b % 4])


def test_patches_and_cells_agree_on_where_things_are():
    """The first patches of the order are those of the cell whose target an object at its place fills."""
    scene = random_scene(np.random.default_rng(0), 1)
    cell = int(cell_targets([scene])[0, :, 0].argmax())
    assert patch_positions(4, 4)[:, 4 * cell].tolist() == [2 * (cell // 4), 2 * (cell % 4)]
    image = np.zeros((1, 32, 32, 3), np.uint8)
    image[:, 8 * (cell // 4) : 8 * (cell // 4) + 8, 8 * (cell % 4) : 8 * (cell % 4) + 8] = 255
    lit = patchify(image)[0].max(1) > 0
    assert np.flatnonzero(lit).tolist() == [4 * cell, 4 * cell + 1, 4 * cell + 2, 4 * cell + 3]


def test_answers_are_balanced_and_reflections_lead_to_the_prompt(source):
    rng = np.random.default_rng(2)
    subjects = [s for s in source.draw(rng, 300) if s.concept is None]
    verdicts = Counter(verify(rng, subject).answer for subject in subjects)
    assert 0.35 < verdicts[YES] / (verdicts[YES] + verdicts[NO]) < 0.6
    for subject in subjects[:80]:
        answer = reflect(rng, subject).answer
        assert answer == NOTHING_WRONG or parse_instruction(answer.split(". ")[0]) is not None
        if subject.is_right:
            assert corrections(subject.caption, subject.scene) == ()


def test_the_good_side_of_a_comparison_is_a_coin_flip_and_the_answer_is_json(source):
    rng = np.random.default_rng(3)
    turns = sample_rows(rng, source, SIDE_BY_SIDE, 120).turns
    answers = [json.loads(turn.answer) for row in turns for turn in row if turn.task == "compare"]
    sides = Counter(answer["Result"] for answer in answers)
    assert 0.4 < sides["left"] / len(answers) < 0.6
    assert all(list(answer) == ["Analysis", "Result", "Instructions"] for answer in answers)
    assert all(parse_instruction(answer["Instructions"]) for answer in answers)
    assert set(compare(rng, *_one_pair(rng))) == {"Analysis", "Result", "Instructions"}


def _one_pair(rng):
    from microworld.scenes.edits import wrong_scene

    caption = sample_training_caption(rng)
    scene = sample_scene(rng, caption)
    return caption, scene, wrong_scene(rng, caption, scene)[1]


def test_a_pool_is_found_again_and_its_held_out_images_are_not_drawn(tmp_path):
    def make(rng, size):
        captions = [sample_training_caption(rng) for _ in range(size)]
        scenes = [sample_scene(rng, caption) for caption in captions]
        return [PooledImage(*item) for item in zip(render(scenes).images, scenes, captions, strict=True)]

    pool = ImagePool(tmp_path, make, seed=0)
    pool.grow_to(30, chunk=20)
    again = ImagePool(tmp_path, make, seed=0)
    assert len(again) == len(pool) == 40
    assert again.items[7].scene == pool.items[7].scene
    assert again.items[7].caption == pool.items[7].caption
    assert (again.items[7].image == pool.items[7].image).all()
    held = again.hold_out(10)
    drawn = [again.draw(np.random.default_rng(i)) for i in range(50)]
    assert not {id(item) for item in held} & {id(item) for item in drawn}
    assert len(held) + len(again) == 40


def test_long_captions_are_prompts_of_verdicts_and_their_drawings_are_found_again(tmp_path):
    rng = np.random.default_rng(9)
    pairs = SubjectSource(DataConfig(degraded_share=0.0, long_pair_share=1.0)).draw_pairs(rng, 12)
    for better, worse in pairs:
        assert better.caption.tag == LONG
        assert (better.is_right, worse.is_right) == (True, False)
        turns = pair_turns(rng, better, worse)
        assert {"verdict", "compare"} <= {turn.task for turn in turns}
    better = pairs[0][0]
    pool = ImagePool(tmp_path, lambda rng, size: [PooledImage(better.image, better.scene, better.caption)] * size, 0)
    pool.grow_to(2, 2)
    (again, _) = ImagePool(tmp_path, lambda rng, size: [], 0).items
    assert again.caption == better.caption


def test_a_long_prompt_is_judged_and_never_nearly_missed():
    rng = np.random.default_rng(10)
    pairs = SubjectSource(DataConfig(degraded_share=0.0, long_pair_share=1.0)).draw_pairs(rng, 8)
    for better, worse in pairs:
        assert (verify(rng, better).answer, verify(rng, worse).answer) == (YES, NO)
        assert better.caption.text in verify(rng, worse).question


def test_rows_are_the_same_after_the_tokenizer_has_padded_a_batch():
    """An evaluation in the middle of a training asks through a processor, which leaves its tokenizer padding."""
    tokenizer = tiny_tokenizer()
    sampled = sample_rows(np.random.default_rng(3), SubjectSource(DataConfig(degraded_share=0.0)), SINGLE, 3)
    before, _ = RowPacker(tokenizer, SINGLE).pack(sampled.images, sampled.turns)
    tokenizer(["a star", "a photo of a red star"], padding=True, return_tensors="pt")
    after, _ = RowPacker(tokenizer, SINGLE).pack(sampled.images, sampled.turns)
    assert torch.equal(before.ids, after.ids)
    assert torch.equal(before.targets, after.targets)


def test_coloured_relations_come_as_often_as_asked_for_and_their_pairs_are_right_and_wrong():
    source = SubjectSource(DataConfig(relation_share=1.0, long_pair_share=0.0))
    pairs = source.draw_pairs(np.random.default_rng(6), 40)
    for better, worse in pairs:
        assert better.caption == worse.caption
        assert better.is_right
        assert not worse.is_right
        assert better.caption.tag == "position"
        assert all(clause.color for clause in better.caption.clauses)
    muddled = [
        w for b, w in pairs if sorted(o.shape for o in b.scene.objects) == sorted(o.shape for o in w.scene.objects)
    ]
    assert len(muddled) > 10
    plain = SubjectSource(DataConfig(long_pair_share=0.0)).draw_pairs(np.random.default_rng(6), 40)
    assert not any(b.caption.tag == "position" and b.caption.clauses[0].color for b, _ in plain)


def test_of_malformed_pairs_the_worse_has_one_object_between_two_shapes():
    source = SubjectSource(DataConfig(malformed_share=1.0, long_pair_share=0.0, degraded_share=0.0))
    for better, worse in source.draw_pairs(np.random.default_rng(7), 40):
        assert (better.is_right, worse.is_right) == (True, False)
        strange = [o.shape for o in worse.scene.objects if o.shape not in SHAPES_OF_THE_WORLD]
        assert len(strange) == 1
        assert len(worse.scene.objects) == len(better.scene.objects)
    usual = SubjectSource(DataConfig()).draw_pairs(np.random.default_rng(7), 40)
    assert all(o.shape in SHAPES_OF_THE_WORLD for pair in usual for s in pair for o in s.scene.objects)
