"""Which way a chain goes on, learnt from traces: in a world whose rates are known the better way is found, and a search
that goes by it is as resumable as any other."""

import json
from dataclasses import replace

import pytest

from inference.generator import GeneratorConfig
from inference.requirements.atoms import failing
from inference.routes import LEAN, SIZES, WAYS, RouteTable, Try, Way, failure_of, load_routes, size_of, tries_in
from inference.search import SearchConfig, parents_of_next_round, search
from inference.search_tools import SearchToolsConfig
from microworld.family import micro_flux
from pipelines.stages.draft_round import DraftRound, DraftRoundConfig, trace_of
from schemas.blocks import attach_images, decode_block, decode_images, encode_block, footer_of
from schemas.errors import InputError
from schemas.records import AtomValue, PromptRecord, PromptRow
from tests.support.scripted_world import ATOMS, FAILED, RATES, ChecksAtoms, world

CONFIG = SearchConfig(2, 4, "reflection", carry="best")
LEARNED = replace(CONFIG, route="learned")


def rows_of(per_kind):
    texts = [f"{kind} {i}" for kind in RATES for i in range(per_kind)]
    return [PromptRow(PromptRecord(text.replace(" ", "-"), text, "rule")) for text in texts]


def searched(rows, config, tools, kept=lambda rows: rows):
    """The rows after all rounds, by the stage that commits them."""
    flux = GeneratorConfig("flux", micro_flux(num_steps=4))
    stage = DraftRound(DraftRoundConfig(config, SearchToolsConfig(generator=flux)), 5)
    stage.tools = tools
    for _ in range(config.depth):
        rows = kept(stage(rows))
    return rows


@pytest.fixture(scope="module")
def pilot():
    return searched(rows_of(250), replace(CONFIG, depth=2), world())


@pytest.fixture(scope="module")
def table(pilot):
    return RouteTable.learnt(one for row in pilot for one in tries_in(row.candidates))


def atoms_failing(kind):
    return tuple(AtomValue(name, name, 0.1 if i < FAILED[kind] else 0.9) for i, name in enumerate(ATOMS[kind]))


@pytest.mark.parametrize("kind", RATES)
def test_the_better_way_is_found_for_each_kind_of_failure(kind, table):
    corrected, fresh = RATES[kind]
    assert table.way(atoms_failing(kind)) == ("correct" if corrected > fresh else "fresh")
    fails, size = failure_of(atoms_failing(kind)), size_of(atoms_failing(kind))
    for way, rate in zip(WAYS, RATES[kind], strict=True):
        assert table.shares(fails, size, way)["nothing"] == pytest.approx(rate, abs=0.07)


def test_fresh_tries_are_not_chosen_by_what_followed_from_them(pilot, table):
    """The first images of chains that went on are wrong more often than others; counted by chains of their own they
    would say that nothing comes of drawing afresh."""
    fresh = [t for row in pilot for t in tries_in(row.candidates) if t.way == "fresh" and t.fails == "count"]
    share = sum(one.after == "nothing" for one in fresh) / len(fresh)
    assert share == pytest.approx(RATES["recount"][1], abs=0.08)


def test_a_learned_route_draws_afresh_where_that_is_better_and_asks_nobody_before(table):
    tools = world(routes=table)
    rows = searched(rows_of(20), LEARNED, tools)
    restarts = {kind: set() for kind in RATES}
    for row in rows:
        trace = trace_of(row)
        for candidate in row.candidates:
            restarts[row.prompt.text.split()[0]].add(candidate.search.restart)
        for draft in trace.drafts:
            assert (draft.parent is None) or failing(trace.drafts[draft.parent].atoms)
    assert "route" not in restarts["move"] | restarts["recolour"]
    assert {"route", "holds"} <= restarts["recount"]
    assert set(tools.corrector.calls) == {"move", "recolour"}
    spoken_of = {prompt.split()[0] for prompts, *_ in tools.critic.calls for prompt in prompts}
    assert spoken_of == {"move", "recolour"}
    for step in (candidate.search for row in rows for candidate in row.candidates):
        assert step.cost.vlm_calls == (0 if step.parent is None else 2)


def test_an_image_that_holds_all_is_left_alone_whatever_the_route(table):
    for config, routes in ((CONFIG, None), (LEARNED, table)):
        (one,) = search(["recount 0"], replace(config, depth=8), world(routes=routes))
        left = [d for d in one.drafts if d.restart == "holds"]
        assert left
        assert all(draft.parent is None and draft.reflection is None for draft in left)
    # ... unless the verifier is not sure of the whole: then the critic is asked, and the image corrected.
    unsure = world(verifier=ChecksAtoms(unsure=True), routes=table)
    (one,) = search(["move 3"], replace(LEARNED, depth=8), unsure)
    assert any(not failing(one.drafts[d.parent].atoms) for d in one.drafts if d.parent is not None)
    assert not any(d.restart == "holds" for d in one.drafts)


def through_a_block(rows):
    data = encode_block(footer_of("draft_round", "k", 0, "", rows), rows, with_images=True)
    return attach_images(decode_block(data, "block")[1], decode_images(data, "block"))


def test_a_routed_search_goes_on_from_its_blocks_and_smaller_budgets_are_its_beginning(table):
    whole = searched(rows_of(5), LEARNED, world(routes=table))
    assert searched(rows_of(5), LEARNED, world(routes=table), through_a_block) == whole
    begun = searched(rows_of(5), replace(LEARNED, depth=2), world(routes=table))
    for short, long in zip(begun, whole, strict=True):
        assert long.candidates[: len(short.candidates)] == short.candidates


def test_only_images_that_are_corrected_next_are_decoded(table):
    for row in searched(rows_of(5), replace(LEARNED, depth=2), world(routes=table)):
        trace = trace_of(row, LEARNED, table)
        parents = {d.number for d in parents_of_next_round(trace, LEARNED, table) if d is not None}
        assert {d.number for d in trace.drafts if d.image.size} == parents
        if row.prompt.text.startswith(("recount", "several")):
            assert not parents


def test_what_one_mend_is_for_is_one_failure():
    """What is missing has no colour and no place either."""
    absent = [("object", "Add a star."), ("color", None), ("relation", None)]
    wrong = [("color", "Paint it red."), ("relation", "Move it.")]
    asked = [("question", None), ("question", None)]

    def failure(said):
        return failure_of([AtomValue(kind, f"{kind} {i}", 0.1, mend) for i, (kind, mend) in enumerate(said)])

    assert failure(absent) == "object"
    assert failure(wrong) == "two"
    assert failure([*absent, *wrong]) == "several"
    assert failure(absent[1:]) == "two"  # of neither is anything known
    assert failure(asked) == "two"
    assert failure([*absent, asked[0]]) == "two"
    assert failure([]) == "nothing"


def test_a_step_on_the_way_counts():
    """A correction that mends one of three for certain, and is right in the end, beats a fresh drawing that is right at
    once more often."""
    steps = (("several", "two"), ("two", "color"), ("color", "nothing"))
    tries = [Try(s, "5 or more", "correct", t, 1.0) for s, t in steps for _ in range(200)]
    tries += [
        Try(s, "5 or more", "fresh", "nothing" if i < 20 else "several", 0.0) for s, _ in steps for i in range(200)
    ]
    table = RouteTable.learnt(tries)
    for s, images in (("several", 3), ("two", 2), ("color", 1)):
        assert table.images_left[s, "5 or more", "correct"] == pytest.approx(images, abs=0.5)
        assert table.images_left[s, "5 or more", "fresh"] > images


def test_what_was_little_tried_leans_on_what_is_coarser():
    common = [Try("color", "1 or 2", "correct", "nothing", 1.0)] * 80 + [
        Try("count", "1 or 2", "correct", "count", 0.0)
    ] * 80
    fresh = [Try("color", "1 or 2", "fresh", "color", 0.0)] * 80 + [
        Try("color", "5 or more", "fresh", "nothing", 0.0)
    ] * 80
    table = RouteTable.learnt([*common, *fresh])
    # Nobody tried it in a prompt of this size: as in others, and not as other failures.
    assert table.shares("color", "3 or 4", "correct")["nothing"] == pytest.approx(0.95, abs=0.04)
    assert table.shares("count", "3 or 4", "correct")["nothing"] < 0.1
    # A fresh drawing: as others of that size, whatever failed.
    assert table.shares("count", "5 or more", "fresh")["nothing"] > 0.9
    assert table.shares("count", "1 or 2", "fresh")["nothing"] < 0.1
    one_more = RouteTable.learnt([*common, *fresh, Try("color", "3 or 4", "correct", "color", 0.0)])
    moved = one_more.shares("color", "3 or 4", "correct")["nothing"]
    coarse = one_more.shares("color", SIZES[0], "correct")
    assert moved == pytest.approx(LEAN * 0.95 / (LEAN + 1), abs=0.06)
    assert all(
        sum(table.shares(s, size, w).values()) == pytest.approx(1)
        for s in ("two", "color")
        for size in SIZES
        for w in WAYS
    )
    assert coarse["nothing"] > moved


def test_a_table_is_read_as_it_was_written(table, tmp_path):
    path = tmp_path / "routes.json"
    path.write_text(table.as_json())
    again = load_routes(str(path))
    assert again == table
    assert again.images_left == table.images_left


@pytest.mark.parametrize(
    ("spoilt", "says"),
    [
        (lambda said: "no JSON", "no table of routes"),
        (lambda said: "[]", "no table of routes"),
        (lambda said: json.dumps(said | {"more": 1}), "more"),
        (lambda said: json.dumps(said | {"tries": []}), "never tried"),
        (lambda said: json.dumps(said | {"tries": [{**said["tries"][0], "fails": "shape"}]}), "shape"),
        (lambda said: json.dumps(said | {"tries": [{**said["tries"][0], "number": -1}]}), "number"),
        (lambda said: json.dumps(said | {"tries": [{**said["tries"][0], "way": "edit"}]}), "way"),
    ],
)
def test_a_file_that_is_no_table_is_refused_with_its_name(table, tmp_path, spoilt, says):
    path = tmp_path / "routes.json"
    path.write_text(spoilt(json.loads(table.as_json())))
    with pytest.raises(InputError) as error:
        load_routes(str(path))
    assert says in str(error.value)
    assert str(path) in str(error.value)


def test_one_way_alone_teaches_nothing():
    alone: tuple[tuple[Way, str], ...] = (("correct", "--search.width 2"), ("fresh", "were corrected"))
    for way, says in alone:
        with pytest.raises(InputError, match=says):
            RouteTable.learnt([Try("color", "1 or 2", way, "nothing", 1.0)] * 9)
    with pytest.raises(InputError, match="never tried"):
        RouteTable.learnt([])


def test_a_table_that_is_not_there_says_how_to_learn_one(tmp_path):
    for name in (str(tmp_path / "nowhere.json"), "micro/no_such_table", "", str(tmp_path)):
        with pytest.raises(InputError, match="python -m pipelines routes"):
            load_routes(name)
    with pytest.raises(InputError, match="without a table"):
        search(["move 1"], LEARNED, world())


def test_the_table_that_ships_corrects_what_stands_wrong_and_draws_a_wrong_number_afresh():
    table = load_routes("micro/routes")
    two = [AtomValue("object", "a star", 0.9), AtomValue("object", "a ring", 0.9)]
    assert table.way([*two, AtomValue("relation", "the star is left of the ring", 0.1)]) == "correct"
    assert table.way([AtomValue("count", "three stars", 0.1)]) == "fresh"
