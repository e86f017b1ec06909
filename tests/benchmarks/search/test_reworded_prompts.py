import numpy as np
import pytest

from benchmarks.search.reworded_prompts import AS_IT_STANDS, WORDINGS, summary, texts_of
from microworld.scenes.captions import caption_of_record, class_plural
from microworld.scenes.evaluation_split import dev_prompts

PROMPTS = list(dev_prompts())[::10]


@pytest.mark.parametrize("wording", WORDINGS)
def test_every_wording_names_all_that_the_prompt_asks_for(wording: str):
    texts = texts_of(wording, PROMPTS, 2)
    assert texts == texts_of(wording, PROMPTS, 2)
    for text, prompt in zip(texts, [p for p in PROMPTS for _ in range(2)], strict=True):
        for clause in caption_of_record(prompt).clauses:
            assert clause.shape in text.lower() or class_plural(clause.shape) in text.lower()
            assert clause.color is None or clause.color in text.lower()


def test_the_prompt_as_it_stands_is_the_prompt_and_no_other_wording_is():
    assert texts_of(AS_IT_STANDS, PROMPTS, 1) == [p.text for p in PROMPTS]
    for wording in set(WORDINGS) - {AS_IT_STANDS}:
        assert all(text != p.text for text, p in zip(texts_of(wording, PROMPTS, 1), PROMPTS, strict=True))


def test_a_wording_is_weighed_tag_by_tag_against_the_same_seeds():
    records = [p for p in PROMPTS for _ in range(2)]
    one_tag = np.array([p.tag == "position" for p in records], float)
    figures = summary(one_tag, np.zeros(len(records)), records)
    assert figures["by_tag"]["position"] == 1
    assert sum(figures["by_tag"].values()) == 1
    assert figures["right"][0] == figures["change"][0] == pytest.approx(1 / 6, abs=1e-4)
