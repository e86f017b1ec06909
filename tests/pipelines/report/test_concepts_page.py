"""The page of concepts: what of a card is shown."""

import json

from pipelines.report.concepts_page import render_page, shown_concept

CARD = {
    "prompt": "a photo of a star",
    "questions": [{"question": "Is there a yellow star?", "answer": "Yes"}],
    "probability_before": 0.25,
    "probability_after": 0.75,
    "steps": 3,
}
OTHER = {"prompt": "a drawing of a <star>", "questions": [], "probability_before": 0.125, "probability_after": 0.5}


def page(**more):
    def read(name):
        if name != "card.json":
            raise FileNotFoundError(name)
        return json.dumps(CARD | more).encode()

    return render_page("stars", [shown_concept("star", "learnt", "", read)]).decode()


def test_prompts_that_were_taught_in_turn_are_shown_with_their_own_figures():
    assert "Taught in turn with it: a drawing of a &lt;star&gt; (0.12 before, 0.50 after)" in page(also=[OTHER])


def test_a_card_of_an_earlier_version_has_none():
    assert "Is there a yellow star?" in page()
    assert "in turn" not in page()
