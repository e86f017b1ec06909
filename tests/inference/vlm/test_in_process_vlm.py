from pathlib import Path

import numpy as np
import pytest
import torch

import microworld
from inference.interfaces import ChatRequest
from inference.vlm.chat_inputs import chat_messages
from inference.vlm.in_process import InProcessVlm
from inference.vlm.prompts import fill_prompt, load_prompt
from microworld.family import micro_qwen
from schemas.errors import InputError, MissingWeightsError
from tests.support.tiny_vlm import save_tiny_vlm


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    folder = save_tiny_vlm(tmp_path_factory.mktemp("vlm"))
    return InProcessVlm(micro_qwen(model=str(folder), max_new_tokens=12, batch_size=3, answer_floor=0.0))


def requests():
    rng = np.random.default_rng(0)

    def image(width):
        return rng.integers(0, 256, (32, width, 3)).astype(np.uint8)

    return [
        ChatRequest("Is there a red star?", (image(32),)),
        ChatRequest("Which image fits better, left or right? Say why.", (image(64),)),
        ChatRequest("Condense the prompt."),
        ChatRequest("What differs?", (image(32), image(32)), system="Be short."),
        ChatRequest("Describe the image.", (image(32),)),
    ]


def test_an_answer_depends_on_its_request_alone(vlm):
    """Batches of another size and order, so another padding: the same answers."""
    answers = vlm.answer(requests())
    alone = [vlm.answer([request])[0] for request in requests()]
    assert answers == alone
    assert all(answer.num_tokens <= 12 for answer in answers)


def test_an_answer_is_what_transformers_generates_by_itself(vlm):
    request = requests()[0]
    text = vlm._processor.apply_chat_template(chat_messages(request), add_generation_prompt=True)
    inputs = vlm._processor(text=[text], images=list(request.images), return_tensors="pt")
    with torch.inference_mode():
        output = vlm._model.generate(**inputs, do_sample=False, max_new_tokens=12)
    new = output[0, inputs["input_ids"].shape[1] :]
    answer = vlm.answer([request])[0]
    assert answer.text == vlm._processor.tokenizer.decode(new, skip_special_tokens=True).strip()
    assert answer.num_prompt_tokens == inputs["input_ids"].shape[1]


def test_probabilities_of_first_words_are_those_of_the_logits(vlm):
    found = vlm.first_word_probabilities(requests(), ["Yes", "No"])
    assert found.shape == (5, 2)
    assert (found > 0).all()
    assert (found.sum(1) < 1).all()
    # The word that comes first when only it may: greedy's first token is the likeliest of all.
    alone = vlm.first_word_probabilities(requests()[3:4], ["Yes", "No"])
    np.testing.assert_allclose(found[3:4], alone, rtol=1e-3)
    with pytest.raises(ValueError, match="different tokens"):
        vlm.first_word_probabilities(requests(), ["Yes", "Yes."])


def test_a_missing_model_says_how_to_get_it():
    with pytest.raises(MissingWeightsError):
        InProcessVlm(micro_qwen(model="micro/no_such_vlm"))


def test_every_micro_prompt_is_there_and_braces_that_are_no_field_stay():
    tasks = {path.stem for path in (Path(microworld.__file__).parent / "prompts").glob("*.txt")}
    assert {"describe", "question", "yes_no", "verify", "reflect", "compare"} < tasks
    assert all(load_prompt(f"micro/{task}") for task in tasks)
    assert fill_prompt('{"score": 1} for "{prompt}"', prompt="a {keys} b") == '{"score": 1} for "a {keys} b"'
    with pytest.raises(InputError, match="has no"):
        fill_prompt("Describe the image.", prompt="a star")
    with pytest.raises(InputError, match="no prompt template"):
        load_prompt("micro/nonsense")


def test_a_template_file_is_taken_as_it_is_and_a_shipped_one_without_its_last_newline(tmp_path):
    (tmp_path / "mine.txt").write_text("\n  {prompt}  \n\n")
    assert load_prompt(str(tmp_path / "mine.txt")) == "\n  {prompt}  \n\n"
    assert load_prompt("verify").endswith("Yes or No.")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 {prompt}")
    with pytest.raises(InputError, match="is no UTF-8 text"):
        load_prompt(str(tmp_path / "latin.txt"))
