from collections import Counter

import numpy as np

from microworld.scenes import evaluation_split
from microworld.scenes.captions import COLORED_RELATION, TAGS, caption_of_record, composition, sample_training_caption
from microworld.scenes.evaluation_split import SEALED, SPLITS, dev_prompts, evaluation_seed, hard_dev_prompts
from pipelines.prompts.overlap import BenchmarkOverlap, composition_of
from pipelines.prompts.worlds import world_of

WORLD = world_of("micro")
RESERVED_TAGS = ("two_object", "colors", "position", "color_attr")


def test_numbers_and_ids():
    dev, test = dev_prompts(), evaluation_split.test_prompts()
    assert Counter(p.tag for p in dev) == dict.fromkeys(TAGS, 40)
    assert Counter(p.tag for p in test) == dict.fromkeys(TAGS, 80)
    assert dev[12].prompt_id == "micro-dev-00012"
    assert len({p.prompt_id for p in dev + test}) == 720


def test_dev_and_test_share_no_reserved_composition():
    parts = [
        {composition_of(p) for p in prompts if p.tag in RESERVED_TAGS}
        for prompts in (dev_prompts(), evaluation_split.test_prompts())
    ]
    assert not parts[0] & parts[1]
    for tag in RESERVED_TAGS:
        for prompts in (dev_prompts(), evaluation_split.test_prompts()):
            assert len({p.text for p in prompts if p.tag == tag}) >= 2, tag


def test_every_composition_that_can_be_is_reserved():
    for prompt in dev_prompts() + evaluation_split.test_prompts():
        assert WORLD.is_reserved(prompt) == (prompt.tag in RESERVED_TAGS)


def test_a_training_prompt_of_a_test_composition_is_caught_by_the_overlap_gate():
    gate = BenchmarkOverlap.from_records(evaluation_split.test_prompts())
    dev = [p for p in dev_prompts() if p.tag in RESERVED_TAGS]
    assert not any(gate.find(p) for p in dev)


def test_counting_forbids_one_more():
    for prompt in dev_prompts():
        assert len(prompt.exclude) == (prompt.tag == "counting")
        for clause in prompt.exclude:
            assert clause.count == prompt.include[0].count + 1


def test_seeds_differ_between_prompts_and_stay_the_same():
    prompts = dev_prompts() + evaluation_split.test_prompts()
    assert len({evaluation_seed(p.prompt_id) for p in prompts}) == 720
    assert evaluation_seed("micro-dev-00000") == evaluation_seed("micro-dev-00000")
    assert all(0 <= evaluation_seed(p.prompt_id) < 2**48 for p in prompts)


def test_the_split_is_fixed():
    """Golden: whoever changes the world, the hashes or the grammar sees that figures are no longer comparable."""
    import hashlib

    text = "\n".join(f"{p.prompt_id} {p.text}" for p in dev_prompts() + evaluation_split.test_prompts())
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "e28f0ee2537718d7"


def test_hard_prompts_are_coloured_relations_none_twice():
    dev, test = hard_dev_prompts(), evaluation_split.hard_test_prompts()
    second = evaluation_split.second_hard_test_prompts()
    assert (len(dev), len(test), len(second)) == (60, 240, 240)
    test += second
    assert len({p.text for p in dev + test}) == len({p.prompt_id for p in dev + test}) == 540
    for prompt in dev + test:
        target, moved = prompt.include
        assert prompt.tag == "position"
        assert moved.relation is not None
        assert moved.relative_to == 0
        assert target.relation is None
        assert target.color is not None
        assert moved.color is not None
        assert target.color != moved.color
        assert target.class_name != moved.class_name


def test_hard_dev_and_hard_test_share_no_composition_and_no_training_has_one():
    dev, test = hard_dev_prompts(), evaluation_split.hard_test_prompts() + evaluation_split.second_hard_test_prompts()
    assert not {composition_of(p) for p in dev} & {composition_of(p) for p in test}
    assert all(WORLD.is_reserved(p) for p in dev + test)
    rng = np.random.default_rng(0)
    trained_on = {composition(sample_training_caption(rng, {COLORED_RELATION: 1.0})) for _ in range(3000)}
    assert len(trained_on) > 1000
    assert not trained_on & {composition(caption_of_record(p)) for p in dev + test}


def test_splits_go_by_name_and_ids_say_which():
    for name, prompts in SPLITS.items():
        assert all(p.prompt_id.startswith(f"{name}-") for p in prompts())
    assert set(SEALED) == {name for name in SPLITS if "test" in name}


def test_the_hard_split_is_fixed():
    import hashlib

    text = "\n".join(f"{p.prompt_id} {p.text}" for p in hard_dev_prompts() + evaluation_split.hard_test_prompts())
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "1d9cccd6744dca6d"
    second = "\n".join(f"{p.prompt_id} {p.text}" for p in evaluation_split.second_hard_test_prompts())
    assert hashlib.sha256(second.encode()).hexdigest()[:16] == "a853acb77ef32fed"
