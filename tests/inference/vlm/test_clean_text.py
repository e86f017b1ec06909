"""What a model wrote becomes the text it was asked for, or is turned down with its reason; texts that only look like
refusals, reasoning or wrapping stay as they are."""

import json
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.vlm.clean_text import MAX_CHARS, clean_text, json_of
from schemas.records import Reason

STAR = "A red star on a grey wall."


@pytest.mark.parametrize(
    "answer",
    [
        STAR,
        f"<think>The user wants a caption.</think>{STAR}",
        f"<think>\n\n</think>\n\n{STAR}",
        f"<thinking>one <think>two</think> three</thinking>\n{STAR}",
        f"The user wants a caption of a star.</think>\n\n{STAR}",
        f'<Thought type="plan">hm</Thought>{STAR}',
        f"<reasoning>hm</reasoning><answer>{STAR}</answer>",
        f"<seed:think>hm</seed:think>{STAR}",
        f"◁think▷ hm ◁/think▷{STAR}",
        f"[THINK]hm[/THINK]{STAR}",
        f"<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>{STAR}<|END_RESPONSE|>",
        f"<|begin_of_thought|>hm<|end_of_thought|><|begin_of_solution|>{STAR}<|end_of_solution|>",
        f"<unused94>thought\nhm<unused95>{STAR}",
        f"<｜think｜>hm<｜/think｜>{STAR}",
        f"&lt;think&gt;hm&lt;/think&gt;{STAR}",
        f"{STAR}\n<think>Was that right?</think>",
        f"<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>{STAR}<|return|>",
        f"<|channel>thought\nhm\n<channel|>{STAR}",
        f"analysisThe user wants a caption.assistantfinal{STAR}",
        f"Thinking Process:\n1. look\n2. write\n\nCaption: {STAR}",
        f"**Reasoning:** it is a star.\n\n**Answer:** {STAR}",
        f"<details><summary>Thinking</summary>hm</details>{STAR}",
        f"<|im_start|>assistant\n{STAR}<|im_end|>\n<|im_start|>user\nAnd now?",
        f"{STAR}<|eot_id|>",
        f"{STAR}</s>",
        f"<|begin_of_box|>{STAR}<|end_of_box|>",
        f"Sure! Here is a caption for the image:\n\n{STAR}",
        f"Sure, here's a concise one-sentence version of the description: {STAR}",
        f"Certainly! {STAR}",
        f"Of course.\n{STAR}",
        f"Here is the refined prompt:\n\n> {STAR}",
        f"Here's a detailed caption of the picture.\n\n{STAR}",
        f"Okay, here you go. Here is the caption: {STAR}".replace("here you go. ", ""),
        f"Based on the image, here is a caption: {STAR}",
        f"Assistant: {STAR}",
        f"assistant\n{STAR}",
        f"1. {STAR}",
        f"Caption: {STAR}",
        f"**Caption:** {STAR}",
        f"**Refined prompt**: *{STAR}*",
        f"### Image description\n\n{STAR}",
        f"Final answer: {STAR}",
        f"```\n{STAR}\n```",
        f"```text\n{STAR}\n```\nLet me know if you would like changes!",
        f"Here is the JSON:\n```json\n{json.dumps({'caption': STAR})}\n```",
        json.dumps({"prompt": STAR, "confidence": 0.9}),
        json.dumps([STAR]),
        json.dumps(STAR),
        f"“{STAR}”",
        f'"{STAR}"',
        f"'{STAR}'",
        f"*{STAR}*",
        "**A red star** on a _grey_ wall.",
        f"- {STAR}",
        "1. A red star on\n a [grey](http://x/y) `wall`.".replace("1. ", ""),
        f"{STAR}\n\nI hope this helps!",
        f"{STAR} Would you like me to make it shorter?",
        "A red\x00 star \x1b[31mon\x1b[0m a\u2028grey\u2029wall.\x07",
        "A red star \u202eon\u202c a\r\ngrey \ufeffwall\u200b.",
        "\x1b]0;title\x07A red star on a grey wall.",
        "A \x9b31mred star on a grey wall.",
    ],
)
def test_wrapping_and_reasoning_are_cut_away(answer):
    said = clean_text(answer)
    assert (said.text, said.problem) == (STAR, None)


@pytest.mark.parametrize(
    "answer",
    [
        "A sign that says 'Sorry, we are closed'",
        "A sign that says \"I'm sorry, but I can't help with that.\"",
        "Sorry! board game box on a table",
        "Sure-footed goat on a cliff",
        "An assistant hands a doctor an instrument",
        "As a child, a woman sits on a swing",
        "I Can't Believe It's Not Butter tub on a table",
        "Here is where the road ends, a sign says",
        'A T-shirt with the text "<think>" on it',
        "A man thinking about a thought bubble",
        '"Open" and "Closed" signs on two doors',
        "It's a dog's life",
        "M*A*S*H poster, 2 * 3 = 6, snake_case_name",
        "A captioned photo: a dog in the rain",
        "Answering machine on a desk",
        "Nan bread on a plate",
        "None of the chairs is red",
        "7 cats and 3. Straße sign",
        "Ein Schild: „Geschlossen“",
        "家の前に立つ猫",
        "Error 404 page on a laptop",
        "The user interface of a phone",
        "Let me know how, a poster by the sea",
        "Okay hand sign in neon",
        "Great white shark, of course underwater",
        "A family: 👨‍👩‍👧 and a flag",
        "می‌خواهم a Persian sign",
    ],
)
def test_a_text_that_only_looks_like_one_of_them_passes(answer):
    said = clean_text(answer)
    assert (said.text, said.problem) == (answer, None)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("", Reason.EMPTY_ANSWER),
        (" \n\t", Reason.EMPTY_ANSWER),
        ("...", Reason.EMPTY_ANSWER),
        ("\x00\x1b[0m\u202e", Reason.EMPTY_ANSWER),
        ("{}", Reason.EMPTY_ANSWER),
        ('{"caption": ""}', Reason.EMPTY_ANSWER),
        ("null", Reason.EMPTY_ANSWER),
        ('"N/A"', Reason.EMPTY_ANSWER),
        ("Sure!", Reason.EMPTY_ANSWER),
        ("Sure! Here is a caption for the image:", Reason.EMPTY_ANSWER),
        ("Here is the refined prompt:\n```\n```", Reason.EMPTY_ANSWER),
        ("**Caption:**", Reason.EMPTY_ANSWER),
        ("<think>I should look at it", Reason.ONLY_REASONING),
        ("<think>hm</think>", Reason.ONLY_REASONING),
        ("◁think▷ hm", Reason.ONLY_REASONING),
        ("<|channel|>analysis<|message|>We need a caption", Reason.ONLY_REASONING),
        ("<|channel>thought\nhm", Reason.ONLY_REASONING),
        ("analysisWe need a caption of a star.", Reason.ONLY_REASONING),
        ("Thinking Process:\n1. look at the image", Reason.ONLY_REASONING),
        ("Thinking...\nA star, or is it", Reason.ONLY_REASONING),
        ("Okay, so the user wants a caption. First I look.", Reason.ONLY_REASONING),
        ("I'm sorry, but I can't help with that.", Reason.REFUSED_ANSWER),
        ("I’m sorry, I can’t assist with that request.", Reason.REFUSED_ANSWER),
        ("Sorry, but I cannot describe this image.", Reason.REFUSED_ANSWER),
        ("I apologize, but I am unable to view images.", Reason.REFUSED_ANSWER),
        ("As an AI language model, I cannot see images.", Reason.REFUSED_ANSWER),
        ("Unfortunately, I can't see the picture.", Reason.REFUSED_ANSWER),
        ("Thank you for the picture. I'm unable to identify people.", Reason.REFUSED_ANSWER),
        ("No image was provided. Please upload an image.", Reason.REFUSED_ANSWER),
        ('{"caption": "I\'m sorry, but I can\'t help."}', Reason.REFUSED_ANSWER),
        ("**I'm sorry**, but I can't help.", Reason.REFUSED_ANSWER),
        ("<think>unsafe?</think>I won't describe this.", Reason.REFUSED_ANSWER),
        ("Sure! Here is the caption:\n\nI'm sorry, I can't do that.", Reason.REFUSED_ANSWER),
        ("很抱歉，我无法描述这张图片。", Reason.REFUSED_ANSWER),
        ("Es tut mir leid, aber das kann ich nicht.", Reason.REFUSED_ANSWER),
        ("Lo siento, no puedo ayudar.", Reason.REFUSED_ANSWER),
        ("a red star " * 1000, Reason.OVERLONG_ANSWER),
        ("x" * 10_000_000, Reason.OVERLONG_ANSWER),
    ],
)
def test_what_is_no_text_is_turned_down_with_its_reason(answer, problem):
    assert clean_text(answer).problem == problem


def test_items_and_paragraphs_become_sentences():
    assert clean_text("- Add a star\n- Paint it red!\n\nMove\nit").text == "Add a star. Paint it red! Move it"
    assert clean_text("1. Add a star\n2. Paint it red").text == "Add a star. Paint it red"


@given(st.text(st.characters(), max_size=300))
def test_any_text_becomes_one_plain_line(answer):
    said = clean_text(answer)
    said.text.encode()
    assert not [c for c in said.text if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
    assert not set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069") & set(said.text)
    assert len(said.text) <= MAX_CHARS


@pytest.mark.parametrize(
    "unit",
    [
        *("<think>", "</think>", "<caption>", "**a ", "__a ", "[", "```\n", "\n", "'a ", '"', "<!--", "<details>"),
        *("thank you ", "sure ", "I ", "<|channel|>", "a. ", "{", "[a](", "</caption>", "\nfinal ", "- a\n", "*a "),
        *("\x1b]", "as an ", "here is a ", "Caption ", "<a", "`a", "analysis"),
    ],
)
def test_no_text_takes_long(unit):
    started = time.process_time()
    clean_text(unit * (400_000 // len(unit)))
    clean_text(unit * (30_000 // len(unit)))
    assert time.process_time() - started < 15


@pytest.mark.parametrize(
    "answer",
    [
        '{"a": [1]}',
        '```json\n{"a": [1]}\n```',
        'Sure! Here it is:\n{"a": [1]}\nLet me know!',
        '<think>{"a": 2}</think>{"a": [1]}',
        'Here: ```\n{"a": [1]}\n``` {not this}',
    ],
)
def test_json_is_found_in_its_wrapping(answer):
    assert json_of(answer) == {"a": [1]}


@pytest.mark.parametrize("answer", ["", "no", '{"a": NaN}', '{"a": Infinity}', "[" * 100_000, '<think>{"a": 1}'])
def test_what_holds_no_json_is_an_error(answer):
    with pytest.raises(ValueError, match="JSON"):
        json_of(answer)
