"""VLMs of all classes in process: their own templates, their own images, first words in their own tokens."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from inference.interfaces import ChatRequest
from inference.vlm.chat_inputs import answer_frame, chat_text
from inference.vlm.in_process import InProcessVlm, InProcessVlmConfig
from pipelines.new_run import digests_of
from recipes import micro
from schemas.errors import InputError, UnscoredError
from tests.support.tiny_models.vlms import KINDS, save_tiny_qwen3_vl

OTHERS = [kind for kind in KINDS if kind != "qwen2.5-vl"]  # which tests/inference/vlm/test_in_process_vlm.py has


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Each is made when it is first asked for."""
    root = tmp_path_factory.mktemp("vlms")

    def folder(kind):
        return root / kind if (root / kind).exists() else KINDS[kind](root / kind)

    return folder


@pytest.fixture(scope="module", params=OTHERS)
def vlm(request, folders):
    return opened(folders(request.param))


def opened(folder, **changes):
    settings = {"max_new_tokens": 6, "batch_size": 3, "answer_floor": 0.0, **changes}
    return InProcessVlm(InProcessVlmConfig(str(folder), **settings))


def image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def requests():
    return [
        ChatRequest("Is there a red star?", (image(32, 32),)),
        ChatRequest("Say why the image is right.", (image(40, 96, 1),)),
        ChatRequest("Condense the prompt."),
        ChatRequest("What differs?", (image(32, 64, 2), image(64, 32, 3)), system="Be short."),
        ChatRequest("Describe it.", (image(70, 33, 4),), system="Be kind."),
    ]


def test_an_answer_depends_on_its_request_alone(vlm):
    """Images of several sizes, several in a request, none: the same answers alone and in batches."""
    answers = vlm.answer(requests())
    assert answers == [vlm.answer([request])[0] for request in requests()]
    assert len({answer.num_prompt_tokens for answer in answers}) > 3
    for request, answer in zip(requests(), answers, strict=True):
        assert answer.num_prompt_tokens > len(request.images)


def test_images_are_looked_at(vlm):
    request = requests()[0]
    other = ChatRequest(request.text, (255 - request.images[0],))
    same, seen = vlm.first_word_probabilities([request, other], ("Yes", "No"))
    assert not np.array_equal(same, seen)


def test_system_prompts_reach_every_model(vlm):
    for request in requests()[3:]:
        text, system = chat_text(vlm._processor, request), request.system or ""
        assert text.count(system) == 1
        assert text.index(system) < text.index(request.text)


def test_thinking_is_switched_off(folders):
    processor = opened(folders("qwen3-vl"))._processor
    assert chat_text(processor, requests()[0]).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    template = processor.chat_template
    processor.chat_template = template.partition("{% if enable_thinking")[0] + "<think>\n{% endif %}"
    assert chat_text(processor, requests()[0]).endswith(
        "assistant\n<think>\n\n</think>\n\n"
    )  # one that always opens it
    processor.chat_template = template


def test_answers_end_as_the_template_ends_them(folders):
    ends = {kind: answer_frame(opened(folders(kind))._processor) for kind in KINDS}
    assert ends["qwen2.5-vl"] == ends["internvl"] == ends["qwen2-vl"] == ("", "<|im_end|>\n")
    assert ends["gemma3"] == ("", "<end_of_turn>\n")
    assert ends["llava"] == (" ", "</s>")


def brute_force(vlm, request, texts):
    """The sum of the probabilities of token sequences, each by a forward pass of its own with all of it in."""
    total = 0.0
    for tokens in texts:
        length = vlm._inputs([request])["input_ids"].shape[1]
        with torch.inference_mode():
            logits = vlm._model(**vlm._inputs([request], [tokens])).logits[0, length - 1 : -1].float().log_softmax(-1)
        total += float(logits[range(len(tokens)), list(tokens)].sum().exp())
    return total


def ways_of(tokenizer, word):
    """All spellings of a word as token sequences: alone, and as they follow a line's end."""
    found, line = set(), tokenizer("\n", add_special_tokens=False).input_ids
    for written in {word, word.lower(), word.upper()}:
        for text in (written, f" {written}"):
            found.add(tuple(tokenizer(text, add_special_tokens=False).input_ids))
            found.add(tuple(tokenizer(f"\n{text}", add_special_tokens=False).input_ids[len(line) :]))
    return found


def test_first_words_are_as_probable_as_their_tokens_one_after_the_other(vlm, monkeypatch):
    monkeypatch.setattr("inference.vlm.first_words.SEEN_SHARE", 0.0)
    monkeypatch.setattr("inference.vlm.first_words.MAX_DECORATIONS", 0)
    asked = requests()[:3]
    found = vlm.first_word_probabilities(asked, ("Yes", "No"))
    for request, row in zip(asked, found, strict=True):
        wanted = [brute_force(vlm, request, ways_of(vlm._processor.tokenizer, word)) for word in ("Yes", "No")]
        np.testing.assert_allclose(row, wanted, rtol=2e-4)
    alone = vlm.first_word_probabilities(asked[:1], ("Yes",))
    np.testing.assert_allclose(alone[0], found[0, :1], rtol=2e-4)


def test_a_random_model_answers_something_else_and_is_not_scored(folders):
    vlm = opened(folders("qwen3-vl"), answer_floor=0.05)
    with pytest.raises(
        UnscoredError, match=r"(?s)qwen3-vl does not answer Yes or No to .* but begins with .*of 1.*0\.05"
    ):
        vlm.first_word_probabilities(requests()[:1], ("Yes",))
    vlm.first_word_probabilities(requests()[:1], ("two", "2"))  # how many: any other number is an answer, too


@pytest.fixture
def copied(folders, tmp_path):
    return shutil.copytree(folders("qwen3-vl"), tmp_path / "copy")


def set_in(file, **fields):
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: (f / "config.json").unlink(), r"config\.json: no such file"),
        (lambda f: (f / "config.json").write_text("{"), r"config\.json: does not read"),
        (lambda f: (f / "config.json").write_text("[]"), r"config\.json: a model of type None"),
        (lambda f: set_in(f / "config.json", model_type="qwen3"), r"config\.json: a model of type 'qwen3'"),
        (lambda f: set_in(f / "config.json", model_type="internvl_chat", auto_map={}), r"(?s)code of its own.*-HF"),
        (lambda f: (f / "processor_config.json").unlink(), "processor|image processor"),
        (lambda f: [one.unlink() for one in f.glob("tokenizer*")], "its tokenizer"),
        (lambda f: (f / "chat_template.jinja").unlink(), "no chat template"),
        (lambda f: (f / "chat_template.jinja").write_text("{{ messages[0]['content'][1]['text'] }}"), "image_pad"),
        (
            lambda f: (f / "chat_template.jinja").write_text("{{ raise_exception('no') }}"),
            "does not take a request: no",
        ),
    ],
)
def test_what_is_no_vlm_is_refused_before_weights_are_read(copied, change, said):
    (copied / "model.safetensors").unlink()
    change(copied)
    with pytest.raises(InputError, match=said):
        opened(copied)


def test_a_run_refuses_what_is_no_vlm_before_it_begins(copied):
    job = replace(micro.dataset(), subsets=("length",))
    config = replace(job, vlm=replace(job.vlm, model=str(copied)))
    digests_of(config)
    said = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({"model_type": "qwen3", **said["text_config"]}))
    with pytest.raises(InputError, match=r"(?s)config\.json: a model of type '.*' that sees no images.*Qwen3-VL"):
        digests_of(config)


def test_memory_of_images_is_bounded_by_pixels(folders):
    plain, bounded = (opened(folders("qwen3-vl"), max_image_pixels=most) for most in (0, 32 * 32))
    big = ChatRequest("Describe it.", (image(64, 64),))
    assert bounded.answer([big])[0].num_prompt_tokens < plain.answer([big])[0].num_prompt_tokens


def test_a_vlm_opens_twice_the_same(folders, tmp_path):
    one, other = (save_tiny_qwen3_vl(tmp_path / name, seed=3) for name in ("one", "other"))
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
