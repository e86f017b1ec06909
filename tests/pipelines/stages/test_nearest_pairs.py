"""Which image is the partner of which: by chance, or the one that is most alike; and how alike they are."""

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commands.main import main
from inference.likeness.likeness import LikenessConfig
from pipelines.jobs import DatasetConfig, models_of, resolve_chains
from pipelines.report.dataset_card import write_card
from pipelines.report.gather import ReportLimits, gather
from pipelines.run_folder import RunFolder
from pipelines.stage import Link
from pipelines.stages.harvest_pairs import HarvestPairs, HarvestPairsConfig
from pipelines.stages.makes_pairs import nearest
from pipelines.stages.read_edits import ReadEdits
from pipelines.stages.score_rewards import ENSEMBLE
from pipelines.stages.select_by_reward import SelectByLength, SelectByReward, SelectByRewardConfig
from pipelines.stages.select_pairs import SelectPairs, SelectPairsConfig
from recipes import micro
from schemas.configuration import output_config
from schemas.errors import InputError
from schemas.records import Check, DetectedObject, ObjectClause, PromptRecord, PromptRow, Reason, Reward, SearchStep
from tests.support.golden_stages import Searched, searched_row
from tests.support.invented_run import Invented, invented_run
from tests.support.vlm_rows import candidate

PIXELS = LikenessConfig("pixels").only_what_is_used()
NEAR = SelectPairsConfig(keep_bins=("easy", "medium", "hard"), partner="nearest", likeness=PIXELS)
RED_STAR = PromptRecord("rule-000000", "a red star", "rule", "colors", (ObjectClause("star", color="red"),))
WRONG = "expected red star>=1, found 0 red; and 1 blue"


def loaded(stage, config):
    made = stage(config, 0)
    made.load()
    return made


def checked(greys, right, boxes=None):
    """A candidate of each grey; right ones show a red star, wrong ones a blue one."""
    made = []
    for i, (grey, fine) in enumerate(zip(greys, right, strict=True)):
        box = tuple(float(value) for value in (boxes[i] if boxes else (0, 0, 4, 4)))
        found = (DetectedObject("star", 0.9, box, "red" if fine else "blue"),)
        check = Check(fine, 0.9 - 0.01 * i if fine else 0.1, () if fine else (WRONG,), found)
        made.append(replace(candidate(i, grey), check=check))
    return PromptRow(RED_STAR, tuple(made))


def paired(row):
    return [(pair.good, pair.bad) for pair in row.pairs]


alike = st.dictionaries(st.tuples(st.integers(0, 3), st.integers(4, 7)), st.floats(0, 1), max_size=16)


@settings(max_examples=50)
@given(alike)
def test_the_two_most_alike_come_first_and_each_image_once(values):
    found = nearest(values)
    assert len({good for good, _ in found}) == len({bad for _, bad in found}) == len(found)
    for i, both in enumerate(found):
        free = [one for one in values if not any(set(one) & set(taken) for taken in found[:i])]
        assert values[both] == max(values[one] for one in free)
    assert all(any(set(one) & set(taken) for taken in found) for one in values)  # nothing is left that could be one


def test_nearest_takes_the_most_alike_of_those_that_may_be_paired():
    row = checked([200, 100, 0, 96, 190, 255], [True, True, True, False, False, False])
    (done,) = loaded(SelectPairs, NEAR)([row])
    assert paired(done) == [(1, 3), (0, 4)]
    assert [pair.likeness for pair in done.pairs] == pytest.approx([1 - 4 / 255, 1 - 10 / 255], abs=1e-6)
    assert {pair.likeness_by for pair in done.pairs} == {"pixels"}
    assert {pair.paired_by for pair in done.pairs} == {"check_score"}
    # Only the best right one and the worst wrong one may be: nothing is nearer then.
    (done,) = loaded(SelectPairs, replace(NEAR, top_k=1, bottom_k=1))([row])
    assert len(done.pairs) == 1
    assert done.pairs[0].good == 0


def test_chance_pairs_the_same_whether_likeness_is_measured_or_not():
    rows = [
        replace(checked([10 * i for i in range(8)], [True, False] * 4), prompt=replace(RED_STAR, prompt_id=name))
        for name in ("a", "b", "c", "d")
    ]
    bare = SelectPairs(replace(NEAR, partner="random", likeness=None), 0)(rows)
    measured = loaded(SelectPairs, replace(NEAR, partner="random"))(rows)
    assert [paired(row) for row in bare] == [paired(row) for row in measured]
    for row, other in zip(bare, measured, strict=True):
        assert all(pair.likeness is None for pair in row.pairs)
        for pair in other.pairs:
            assert pair.likeness == pytest.approx(1 - abs(pair.good - pair.bad) * 10 / 255, abs=1e-6)


@pytest.mark.parametrize("stage", [SelectByReward, SelectByLength])
def test_the_nearest_of_those_that_are_enough_worse(stage):
    values, greys = [3.0, 2.9, 0.0, -1.0, 2.8, -2.0], [200, 100, 101, 102, 203, 190]
    texts = ["long", "long", "long", "text", "text", "text"]
    made = [replace(candidate(i, greys[i], texts[i]), rewards=(Reward(ENSEMBLE, values[i]),)) for i in range(6)]
    row = PromptRow(PromptRecord("p", "long", "general"), tuple(made))
    config = SelectByRewardConfig(top_k=2, bottom_k=3, partner="nearest", likeness=PIXELS, min_margin=0.5)
    (done,) = loaded(stage, config)([row])
    assert set(paired(done)) == ({(1, 2), (0, 5)} if stage is SelectByReward else {(2, 3), (0, 5)})
    assert done.pairs[0].likeness > done.pairs[1].likeness
    (none,) = loaded(stage, replace(config, min_margin=9.0))([row])
    assert none.rejection.reason == Reason.NO_MARGIN


def test_nothing_that_measures_is_an_error_in_a_stage_and_refused_for_a_run():
    with pytest.raises(ValueError, match="nothing that measures"):
        SelectPairs(replace(NEAR, likeness=None), 0)([checked([1, 2], [True, False])])
    for part in ("select", "pair"):
        dataset = micro.dataset()
        asked = replace(dataset, **{part: replace(getattr(dataset, part), partner="nearest")})
        with pytest.raises(InputError, match="nearest by what") as refused:
            asked.links()
        assert refused.value.field == f"{part}.partner"
        assert replace(asked, likeness=PIXELS).links()


def test_runs_of_before_keep_their_keys_and_read_no_image_for_it():
    subsets = ("rule", "general", "length", "editing")
    without = replace(micro.dataset(), subsets=subsets)
    measured = replace(without, likeness=LikenessConfig("pixels"))
    assert "likeness" not in output_config(without, {})
    assert models_of(measured) == models_of(without)
    for subset in subsets:
        links = [
            next(link for link in config.links()[subset] if hasattr(link.config, "likeness"))
            for config in (without, measured)
        ]
        assert not {"likeness", "partner", "explained_only", "max_shift"} & set(output_config(links[0].config, {}))
        assert output_config(links[1].config, {})["likeness"]["kind"] == "pixels"
        assert [link.reads_images for link in links] == [False, subset != "editing"]


def test_edits_and_harvests_measure_it_too():
    edits = replace(micro.dataset(), subsets=("editing",), likeness=LikenessConfig("pixels"))
    stage = loaded(ReadEdits, edits.links()["editing"][0].config)
    from pipelines.prompts.edit_files import EditIntake, EditQuality, iterate_world_edits
    from pipelines.prompts.worlds import world_of

    world = world_of("micro")
    assert world is not None
    rows = list(itertools.islice(iterate_world_edits(world, 0, EditQuality(0, 0, 0), EditIntake()), 4))
    likeness = [pair.likeness or 0.0 for row in stage(rows) for pair in row.pairs]
    assert len(likeness) >= 3
    assert all(0.5 < value < 1 for value in likeness)

    steps = [SearchStep(round=0, chain=0, score=-3.0)]
    steps += [SearchStep(round=1, chain=0, score=2.0, parent=0, reflection="Add a red star.")]
    trace = searched_row(0, steps)
    harvest = HarvestPairs(HarvestPairsConfig(rounds=("a",), likeness=PIXELS), 0)
    harvest.search, harvest.unit_of = Searched([trace]), {trace.prompt.prompt_id: 0}
    harvest.measure = PIXELS.open()
    ((pair,),) = [row.pairs for row in harvest([PromptRow(trace.prompt)])]
    assert pair.likeness == pytest.approx(1 - 10 / 255, abs=1e-6)
    assert not Link(HarvestPairs, harvest.config).reads_images


# Pairs whose difference the reflection tells


HERE, THERE = (0, 0, 4, 4), (4, 4, 8, 8)


def test_unexplained_pairs_are_rejected_with_what_else_differs():
    config = replace(NEAR, explained_only=True)
    row = checked([0, 9], [True, False], [HERE, THERE])
    (done,) = loaded(SelectPairs, config)([row])
    (pair,) = done.pairs
    assert (pair.rejection.stage, pair.rejection.reason) == ("select_pairs", "unexplained_difference")
    assert pair.rejection.detail == "Replace the blue star by a red star. But star: lies elsewhere"
    assert done.rejection.reason == Reason.NO_PAIR_LEFT
    assert done.rejection.detail == "unexplained_difference"
    (kept,) = loaded(SelectPairs, replace(config, max_shift=0.5))([row])
    assert kept.shipped_pairs
    (chance,) = SelectPairs(replace(config, partner="random", likeness=None), 0)([row])
    assert chance.pairs[0].rejection.reason == "unexplained_difference"


def test_explained_pairs_come_before_nearer_ones_that_are_not():
    row = checked([100, 100, 200], [True, False, False], [HERE, THERE, HERE])
    one = replace(NEAR, pairs_per_prompt=1)
    assert paired(*loaded(SelectPairs, one)([row])) == [(0, 1)]
    (done,) = loaded(SelectPairs, replace(one, explained_only=True))([row])
    assert paired(done) == [(0, 2)]
    assert done.pairs[0].rejection is None


def test_a_shift_that_is_no_share_is_refused():
    with pytest.raises(InputError, match="max_shift"):
        SelectPairsConfig(max_shift=20)


# What is shown of it


@pytest.fixture(scope="module")
def near_run(tmp_path_factory) -> tuple[RunFolder, DatasetConfig]:
    def settings(config: DatasetConfig) -> DatasetConfig:
        return replace(config, likeness=LikenessConfig("pixels"), select=replace(config.select, partner="nearest"))

    path = tmp_path_factory.mktemp("near") / "run"
    return invented_run(path, Invented(num_prompts=16, settings=settings))


def test_inspect_card_page_and_shard_say_how_alike_a_pair_is(near_run, capsys):
    folder, config = near_run
    data = gather(folder, config, ReportLimits())
    assert data.pairs
    assert all(0 < (card.likeness or 0) <= 1 and card.likeness_by == "pixels" for card in data.pairs)
    card = data.pairs[0]
    assert main(["inspect", "--run", folder.storage.uri, "--prompt", card.asked.prompt_id]) == 0
    assert f"likeness {card.likeness:.3f} by pixels" in capsys.readouterr().out
    write_card(folder, config)
    text = folder.storage.read("card/README.md").decode()
    assert "## Likeness" in text
    values = [card.likeness or 0.0 for card in data.pairs]
    (row,) = re.findall(rf"\| `rule` \| pixels \| {len(values)} \| (.+) \| (.+) \| (.+) \|", text)
    assert [float(cell) for cell in row] == pytest.approx(np.percentile(values, (10, 50, 90)), abs=2e-3)

    from pipelines.pack_shards import unit_samples

    samples = unit_samples(folder, resolve_chains(folder, config)["rule"], config.pack, 0)
    assert samples
    assert {sample.meta["likeness_by"] for sample in samples} == {"pixels"}
    assert all(0 < sample.meta["likeness"] <= 1 for sample in samples)


def test_a_run_that_does_not_measure_it_says_nothing_of_it(tmp_path, capsys):
    folder, config = invented_run(tmp_path / "run", Invented(num_prompts=8))
    write_card(folder, config)
    assert "ikeness" not in folder.storage.read("card/README.md").decode()
    assert main(["inspect", "--run", folder.storage.uri, "--unit", "0"]) == 0
    assert "likeness" not in capsys.readouterr().out
