"""The staged schedule: what one loaded stage makes of every unit is one wave, whatever a chain repeats."""

from inference.allocation import AllocationConfig
from inference.search import SearchConfig
from pipelines.jobs import DatasetConfig
from pipelines.runtime.runtime import UnitTask, stage_order, stretches, waves
from pipelines.search_job import SearchJobConfig
from pipelines.stage import Step


def chains(config):
    """Steps as if every barrier were settled."""
    return {
        subset: [
            Step(i, link, key=f"{subset}-{i}", barrier_value={"round": i} if link.barrier else None)
            for i, link in enumerate(links)
        ]
        for subset, links in config.links().items()
    }


def searching(depth, **changes):
    search = SearchConfig(strategy="noise", depth=depth)
    (steps,) = chains(SearchJobConfig(search=search, **changes)).values()
    return steps


def test_the_rounds_of_a_search_are_one_stretch_of_one_stage():
    assert [(s.name, s.turn, s.first, s.last) for s in stretches(searching(4))] == [
        ("draft_round", 0, 0, 3),
        ("judge_candidates", 0, 4, 4),
    ]


def test_what_is_decided_between_rounds_parts_them():
    steps = searching(3, allocation=AllocationConfig(budget=4))
    assert [(s.name, s.turn) for s in stretches(steps)] == [
        ("draft_round", 0),
        ("allocate_round", 0),
        ("draft_round", 1),
        ("allocate_round", 1),
        ("draft_round", 2),
        ("judge_candidates", 0),
    ]


def test_a_wave_has_every_unit_that_lacks_something_of_it_cut_down_to_that():
    steps = searching(4)
    tasks = [UnitTask(0, steps, 4, 0), UnitTask(1, steps, 4, 2), UnitTask(2, steps, 4, 4), UnitTask(3, steps, 1, 0)]
    cut = [[(task.unit, task.first, task.upto) for task in wave] for wave in waves(tasks)]
    assert cut == [[(0, 0, 3), (1, 2, 3), (3, 0, 1)], [(0, 4, 4), (1, 4, 4), (2, 4, 4)]]


def test_chains_that_share_stages_pass_them_in_one_order():
    config = DatasetConfig(subsets=("rule", "general", "length"), annotate=True)
    by_subset = chains(config)
    tasks = [UnitTask(i, steps, len(steps) - 1) for i, steps in enumerate(by_subset.values())]
    order = [name for name, _ in stage_order(tasks)]
    assert len(order) == len(set(order))
    for steps in by_subset.values():
        places = [order.index(step.name) for step in steps]
        assert places == sorted(places)
    assert sum(len(wave) for wave in waves(tasks)) == sum(len(steps) for steps in by_subset.values())
