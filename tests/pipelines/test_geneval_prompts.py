"""GenEval's 553 prompts as a search takes them: from its own file where that is here, else rebuilt from the table."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from inference.prompt_grammar import parse_prompt
from pipelines.evaluation import geneval_metadata
from pipelines.prompts.overlap import BenchmarkOverlap, geneval_prompts
from pipelines.search_job import SearchJobConfig, search_prompts
from schemas.records import PromptRow

TAGS = {"single_object": 80, "two_object": 99, "counting": 80, "colors": 94, "position": 100, "color_attr": 100}


def searched(file, **changes):
    job = SearchJobConfig(prompts=str(file), images_per_prompt=4, closed_vocabulary=False, **changes)
    return list(search_prompts(job))


def check(rows):
    assert len(rows) == 4 * 553
    assert Counter(row.prompt.tag for row in rows) == {tag: 4 * number for tag, number in TAGS.items()}
    assert len({row.prompt.prompt_id for row in rows}) == 4 * 553
    overlap = BenchmarkOverlap.shipped()
    assert all(overlap.find(row.prompt) is not None for row in rows)


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory):
    """A metadata file in GenEval's form."""
    file = tmp_path_factory.mktemp("geneval") / "evaluation_metadata.jsonl"
    file.write_text("".join(json.dumps(geneval_metadata(PromptRow(p))) + "\n" for p in geneval_prompts()))
    return file


def test_all_of_the_rebuilt_file_parse_and_ask_for_what_the_table_says(rebuilt):
    rows = searched(rebuilt)
    check(rows)
    asked = [(row.prompt.text, row.prompt.tag, row.prompt.include, row.prompt.exclude) for row in rows[::4]]
    assert asked == [(p.text, p.tag, p.include, p.exclude) for p in geneval_prompts()]


def test_the_words_of_all_553_parse_to_what_their_records_ask_for():
    for record in geneval_prompts():
        parsed = parse_prompt(record.text)
        names = [clause.class_name for clause in parsed.include]
        assert names == [clause.class_name for clause in record.include], record.text
        assert (parsed.tag, parsed.include, parsed.exclude) == (record.tag, record.include, record.exclude)


def test_some_are_taken_evenly(rebuilt):
    rows = searched(rebuilt, num_prompts=12)
    assert Counter(row.prompt.tag for row in rows) == dict.fromkeys(TAGS, 8)


def test_all_of_geneval_s_own_file_parse():
    file = os.environ.get("GENEVAL_METADATA", "evaluation_metadata.jsonl")
    if not Path(file).is_file():
        pytest.skip("GenEval's evaluation_metadata.jsonl is not here (GENEVAL_METADATA names it)")
    check(searched(file))
