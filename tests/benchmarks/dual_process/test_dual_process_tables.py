"""The tables' arithmetic, on results that are made up."""

import json
from types import SimpleNamespace

import pytest

from benchmarks.dual_process import dual_process_tables
from benchmarks.dual_process.dual_process_tables import Arguments, plot, table_1
from benchmarks.dual_process.dual_process_tasks import Tables, Task, asked_about, setting_config, unrelated_prompts
from benchmarks.dual_process.known_pairs import KINDS, known_pairs
from inference.judges.commonsense_t2i import CommonsensePair
from trainers.concept_training import why_not_learnt

PAIRS = [
    CommonsensePair(("a photo of a sunrise", "a photo of a noon"), ("low", "high"), "sky"),
    CommonsensePair(("a photo of a star", "a photo of a ring"), ("a photo of a star", "a photo of a ring"), "thing"),
]


def result(before, after, vlm=(0.2, 0.9), unrelated=((True, True), (True, False))):
    return {
        "fits_before": before,
        "fits_after": after,
        "vlm_before": vlm[0],
        "vlm_after": vlm[1],
        "unrelated_before": list(unrelated[0]),
        "unrelated_after": list(unrelated[1]),
        "seconds": 2.0,
    }


def test_a_pair_counts_where_both_of_its_images_are_right(tmp_path, capsys):
    results = {}
    for kind in ("base", "expanded"):
        for side in (0, 1):
            results[Task("one step", 0, side, kind)] = result([False, side == 0], [True, True])
            results[Task("one step", 1, side, kind)] = result([True, True], [side == 0, True])
    figures = table_1("one step", PAIRS, results)
    assert figures["rows"]["Base Prompt"]["by_category"] == {"sky": 0.0, "thing": 1.0, "avg": 0.5}
    assert figures["rows"]["Base Prompt + Ours"]["by_category"] == {"sky": 1.0, "thing": 0.5, "avg": 0.75}
    changed = figures["differences"]["Base Prompt"]
    assert changed["pairs right"][0] == pytest.approx(0.25)
    assert changed["images right"][0] == pytest.approx((0.5 + 1.0 + 0.0 - 0.5) / 4)
    assert changed["the VLM's opinion"] == pytest.approx([0.7] * 3)
    assert changed["unrelated prompts right"] == pytest.approx([-0.5] * 3)
    assert figures["differences"]["expanded prompt alone"][0] == 0
    assert "sky" in capsys.readouterr().out
    plot({"one step": {"table 1": figures}}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_questions_leave_what_a_word_means_to_the_vlm():
    concept, weak = (asked_about(pair, 0) for pair in PAIRS)
    assert concept[0].question == "Does the image show a sunrise?"
    assert not any("low" in asked.question for asked in concept)
    assert weak[0].question == "Is there a star?"


def test_unrelated_prompts_are_of_every_tag_and_of_no_pair():
    chosen = unrelated_prompts({"a photo of a star"})
    assert len({record.tag for record in chosen}) == 6
    assert "a photo of a star" not in {record.text for record in chosen}
    assert 20 < len({record.text for record in chosen}) == len(chosen)


def test_a_training_that_makes_it_worse_is_a_result_too():
    config = setting_config("multi-step", 2)
    assert why_not_learnt(0.9, 0.0, False, config) == ""
    assert config.hopeless_after == 0


@pytest.fixture
def described(monkeypatch):
    """Tables of the known set without its models."""
    monkeypatch.setattr(
        "benchmarks.dual_process.dual_process_tasks.DualProcess",
        lambda config: SimpleNamespace(teacher=SimpleNamespace(model=None, processor=None), config=config),
    )
    monkeypatch.setattr("benchmarks.dual_process.dual_process_tasks.InProcessVlm", SimpleNamespace(of=lambda *_: None))
    monkeypatch.setattr("benchmarks.dual_process.dual_process_tasks.MicroDescriptionJudge", lambda: None)

    def made(pairs, out):
        return Tables("multi-step", pairs, 2, out, described="parts")

    return made


def test_known_words_are_taught_by_what_they_imply_and_expanded_to_it(described, tmp_path):
    tables = described(known_pairs("dev"), tmp_path)
    for number, pair in enumerate(tables.pairs):
        base, expanded = (tables.concept(Task("multi-step", number, 1, kind)) for kind in ("base", "expanded"))
        assert (base.prompt, expanded.prompt) == (pair.prompts[1], pair.descriptions[1])
        assert [one.question for one in base.questions] == [one.question for one in expanded.questions]
        assert base.digest != expanded.digest


def test_more_pairs_change_nothing_of_the_first(described, tmp_path):
    few, all_ = (described(known_pairs("dev")[:count], tmp_path) for count in (1, None))
    assert few.concept(Task("multi-step", 0, 0, "base")).digest == all_.concept(Task("multi-step", 0, 0, "base")).digest
    texts = [[record.text for record in tables.unrelated(0)] for tables in (few, all_)]
    assert texts[0] == texts[1]
    pair = few.pairs[0]
    assert not {*pair.prompts, *pair.descriptions} & set(texts[0])
    assert len(texts[0]) > 20


def test_the_known_set_has_its_own_results_and_the_sealed_half_is_recorded_when_it_is_opened(
    monkeypatch, tmp_path, capsys
):
    class Taught:
        def __init__(self, setting, pairs, tries, out, steps, *, described, learning_rate, keep_weight, keep_prompts):
            assert described == "parts"
            assert learning_rate == keep_weight == keep_prompts == 0

        def result(self, task):
            return result([False, False], [task.kind == "expanded", True]) | {"prompt": task.name}

    monkeypatch.setattr(dual_process_tables, "Tables", Taught)
    monkeypatch.setattr(dual_process_tables, "RESULTS", tmp_path)
    monkeypatch.setattr("benchmarks.results_file.RESULTS", tmp_path)
    monkeypatch.setattr(dual_process_tables, "PLOTS", tmp_path)

    def run(split):
        options = f"--set known --pairs 3 --tries 2 --settings multi-step --latents-per-category 0 --split {split}"
        monkeypatch.setattr("sys.argv", ["dual_process_tables", *options.split()])
        dual_process_tables.main()
        suffix = "" if split == "dev" else "_test"
        assert (tmp_path / f"dual_process_tables_known{suffix}.png").is_file()
        return json.loads((tmp_path / f"dual_process_tables_known{suffix}.json").read_text())["figures"]

    dev = run("dev")
    assert "openings" not in dev
    assert dev["num_pairs"] == 3
    rows = dev["multi-step"]["table 1"]["rows"]
    assert list(rows) == ["Base Prompt", "Base Prompt + Ours", "Expanded Prompt", "Expanded Prompt + Ours"]
    assert [row["avg"][0] for row in rows.values()] == [0, 0.5, 0, 1]
    assert set(rows["Base Prompt"]["by_category"]) == {*KINDS, "avg"}
    run("test")
    openings = run("test")["openings"]
    assert [set(opening) for opening in openings] == [{"at", "commit", "command"}] * 2
    assert "--split test" in openings[0]["command"]


@pytest.mark.slow
def test_two_processes_make_what_one_makes(monkeypatch, tmp_path):
    def run(processes):
        out = tmp_path / str(processes)
        options = f"--set known --pairs 1 --tries 1 --steps 1 --kinds base --latents-per-category 0 --out {out}"
        monkeypatch.setattr(
            "sys.argv",
            ["dual_process_tables", "--settings", "multi-step", *options.split(), "--processes", str(processes)],
        )
        dual_process_tables.main()
        figures = json.loads((out / "results.json").read_text())["figures"]["multi-step"]["table 1"]
        assert figures.pop("seconds a distillation") > 0
        return json.dumps(figures)  # of one pair there are no intervals: NaN

    assert run(2) == run(1)


def test_both_sets_have_a_sealed_half():
    for name in ("words", "known"):
        halves = [Arguments(set=name, split=split) for split in ("dev", "test")]
        assert halves[0].chosen != halves[1].chosen
        assert len({one.name for one in halves}) == 2
    assert Arguments().name == "dual_process_tables"
