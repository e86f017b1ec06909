"""Searches over any prompt: judged by questions to a VLM elsewhere, or by nobody, which is then said everywhere."""

import json
import threading

import pytest

from commands.main import main
from commands.runs import open_run
from inference.vlm.first_word_probe import QUESTION
from pipelines.evaluation import evaluate, read_rows
from pipelines.jobs import resolve_chains
from pipelines.search_job import SearchJobConfig
from pipelines.stages.judge_candidates import JudgeCandidates
from tests.support.chat_server import Reply as Answer
from tests.support.chat_server import chat_server, says, text_of

FOX = 'A fox <b>writing</b> "a letter"'
PROMPTS = [
    {"prompt": "a photo of a red star"},
    {"prompt": FOX, "vqa_list": [["Is the fox writing?", "Yes"], ["How many foxes are there?", "one"]]},
    {"prompt": "une étoile rouge 🌟"},
]
ARGS = (
    *("--unit-size", "2", "--search.strategy", "noise", "--search.width", "2", "--search.depth", "2", "--quiet"),
    *("--tools.verifier.kinds", "rewards", "--tools.generator.flux.num-steps", "2", "--num-threads", "1"),
    "--no-closed-vocabulary",
)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    file = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in PROMPTS))
    return file


def search(run, prompts, *arguments):
    return main(["search", "--run", str(run), "--prompts", str(prompts), *ARGS, *map(str, arguments)])


@pytest.fixture(scope="module")
def unjudged(prompts, tmp_path_factory):
    run = tmp_path_factory.mktemp("unjudged") / "run"
    assert search(run, prompts, "--judge.kind", "none") == 0
    return run


def opened(run):
    folder, config = open_run(str(run))
    assert isinstance(config, SearchJobConfig)
    return folder, config


def lines_of(run):
    return [json.loads(line) for line in (run / "evaluation" / "results.jsonl").read_text().splitlines()]


def test_without_a_judge_scores_are_the_verifier_s_and_nothing_is_called_right_or_wrong(unjudged):
    folder, config = opened(unjudged)
    (steps,) = resolve_chains(folder, config).values()
    assert all(step.link.stage is not JudgeCandidates for step in steps)
    rows = [row for row in read_rows(folder, config) if row]
    summary = json.loads((unjudged / "evaluation" / "summary.json").read_text())
    assert summary["judge"] is None
    assert "nobody judged" in summary["note"]
    assert (summary["num_searches"], summary["num_not_judged"], summary["num_unfinished"]) == (3, 3, 0)
    assert all({"score", "best_there_was", "by_tag"}.isdisjoint(row) for row in summary["budgets"])
    best = [max(c.search.score for c in row.candidates) for row in rows]
    delivered = lines_of(unjudged)
    assert [line["score"] for line in delivered] == best
    assert [line["correct"] for line in delivered] == [None] * 3
    by_tag = {"colors": best[0], "no tag": sum(best[1:]) / 2}
    assert {t: found[0] for t, found in summary["budgets"][-1]["verifier_score_by_tag"].items()} == pytest.approx(
        by_tag
    )
    means = [row["verifier_score"][0] for row in summary["budgets"]]
    assert means == sorted(means)


def test_the_page_says_that_nobody_judged(unjudged):
    page = (unjudged / "evaluation" / "index.html").read_text()
    assert "Nobody judged these images." in page
    assert "nobody judged</figcaption>" in page
    assert page.count(": not judged</h3>") == 3
    assert FOX not in page
    assert all(word not in page for word in ("best there was", ">right<", ">wrong<", "%</td>"))


def test_images_of_prompts_that_geneval_cannot_read_lie_apart(unjudged, tmp_path):
    names = [line["filename"] for line in lines_of(unjudged)]
    assert names == ["geneval/00000/samples/0000.png", *(f"free/0000{i}/samples/0000.png" for i in (1, 2))]
    folder = unjudged / "evaluation"
    assert all((folder / name).read_bytes()[:4] == b"\x89PNG" for name in names)
    assert main(["evaluate", "geneval", "--images", str(folder / "geneval"), "--out", str(tmp_path)]) == 0
    out = tmp_path / "published"
    assert main(["evaluate", "--run", str(unjudged), "--export", str(out)]) == 0
    assert len(list(out.glob("*/samples_best/*.png"))) == 3


@pytest.mark.parametrize("command", [["status"], ["status", "--json"], ["verify", "--deep"], ["report"], ["gc"]])
def test_other_commands_know_a_search_without_a_judge(unjudged, command, capsys):
    assert main([command[0], "--run", str(unjudged), *command[1:]]) == 0
    assert capsys.readouterr().out


def test_the_old_name_of_the_flag_still_does(unjudged, prompts, capsys):
    assert search(unjudged, prompts, "--judge.judge.kind", "none") == 0
    assert "judged by nobody" in capsys.readouterr().out
    assert search(unjudged, prompts, "--unjudged", "count") == 3  # with a judge it is another search
    assert "judge.judge.kind: 'none' -> 'segmentation'" in capsys.readouterr().err


def test_what_the_world_s_judge_cannot_judge_names_the_ways_out(prompts, tmp_path, capsys):
    assert search(tmp_path / "run", prompts, "--judge.kind", "micro") == 2
    said = capsys.readouterr().err
    assert "2 of 3 prompts cannot be judged by micro/judge" in said
    assert "--judge.kind questions" in said
    assert "--judge.kind none" in said


def test_a_plan_has_no_judge_either(prompts, capsys):
    argv = ["plan", "search", "--prompts", str(prompts), *ARGS, "--judge.kind", "none", "--json", "--check"]
    argv.remove("--quiet")
    assert main(argv) == 0
    stages = [one["name"] for one in json.loads(capsys.readouterr().out)["stages"]]
    assert stages == ["draft_round"]


def first_word(word: str, probability: float) -> Answer:
    """A completion whose first token is that word, so probable."""
    import math

    body = json.loads(says(word).body)
    other = "No" if word != "No" else "Yes"
    top = [(word, probability), (other, 1 - probability)]
    tokens = [{"token": token, "logprob": math.log(max(p, 1e-9)), "bytes": None} for token, p in top]
    body["choices"][0]["logprobs"] = {"content": [{"token": word, "logprob": 0.0, "top_logprobs": tokens}]}
    return Answer(json.dumps(body))


@pytest.mark.slow
def test_questions_to_a_server_judge_any_prompt_and_are_asked_once(prompts, tmp_path, capsys):
    lock, asked = threading.Lock(), []

    def answer(payload, number):
        text = text_of(payload)
        with lock:
            asked.extend([text] if text != QUESTION else [])  # the run's first, whether there are log-probabilities
        return first_word("one", 0.9) if "How many" in text else first_word("Yes", 0.3 if "étoile" in text else 0.8)

    run = tmp_path / "run"
    with chat_server(answer, models=["judge"]) as server:
        vlm = ["--judge.questions.vlm.model", "", "--judge.questions.vlm.endpoint-model", "judge"]
        vlm += ["--judge.questions.vlm.base-url", server.base_url, "--judge.questions.vlm.kind", "endpoint"]
        assert search(run, prompts, "--judge.kind", "questions", *vlm) == 0
        # Four images each: two requirements of the star, two questions, one on the whole.
        assert len(asked) == 4 * 5
        folder, config = opened(run)
        (steps,) = resolve_chains(folder, config).values()
        for unit in folder.units():
            folder.delete_block(steps[-1].name, steps[-1].key, unit)
        assert main(["resume", "--run", str(run), "--quiet"]) == 0
        assert len(asked) == 4 * 5  # the journal knows what was said
    found = evaluate(folder, config)
    assert [one.right for one in found.searches] == [(True,) * 4, (True,) * 4, (False,) * 4]
    assert found.cost.vlm_calls == 4 * 5
    assert "judged by questions to judge" in capsys.readouterr().out
    star, fox, free = lines_of(run)
    assert (star["correct"], fox["correct"], free["correct"]) == (True, True, False)
    assert fox["soft_tifa_gm"] == pytest.approx((0.8 * 0.9) ** 0.5, abs=1e-3)
    assert "0.30" in free["reason"]
    assert json.loads(fox["metadata"])["questions"][1] == {"question": "How many foxes are there?", "answer": "one"}
    summary = json.loads((run / "evaluation" / "summary.json").read_text())
    assert summary["judge"] == "questions to judge"
    assert summary["budgets"][-1]["by_tag"] == {"colors": 1.0, "no tag": 0.5, "overall": 0.75}
    page = (run / "evaluation" / "index.html").read_text()
    assert "Soft-TIFA GM" in page
    assert page.count('<b class="right-text">right</b></h3>') == 2


def test_a_judge_that_chooses_is_refused_before_anything_is_written(prompts, tmp_path, capsys):
    arguments = ["--judge.kind", "questions", "--tools.verifier.kinds", "vlm"]
    assert search(tmp_path / "run", prompts, *arguments) == 2
    assert "is a model that also chooses (micro/vlm)" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
