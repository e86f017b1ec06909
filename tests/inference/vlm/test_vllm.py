"""vLLM on CPU serves the folder of weights without special code, answers as transformers does, comes back when it is
killed, and leaves nothing behind."""

import base64
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import openai
import pytest
import torch
from PIL import Image

from inference.interfaces import ChatRequest
from inference.vlm.adapters import merged_folder
from inference.vlm.grid import image_grid
from inference.vlm.in_process import InProcessVlm
from inference.vlm.prompts import fill_prompt, load_prompt
from microworld.family import micro_qwen
from microworld.scenes.world import random_scene, render
from microworld.weights_folder import MICRO_WEIGHTS
from tests.support.processes import lines_above, wait_until
from tests.support.vllm_of_micro import model_folder, server_of, vllm_processes

ROOT = Path(__file__).parents[3]
NUM_REQUESTS = 50
MAX_NEW_TOKENS = 120
NEAR_TIE = 1e-2  # of two logits


def some_requests():
    """One image, two in a grid, two apart, none, in the words of the micro prompts."""
    rng = np.random.default_rng(7)
    images = list(render([random_scene(rng) for _ in range(2 * NUM_REQUESTS)]).images)
    compare = fill_prompt(load_prompt("micro/compare"), prompt="a photo of a red star and a blue ring")
    requests = []
    for i in range(NUM_REQUESTS):
        first, second = images[2 * i : 2 * i + 2]
        kinds = [
            ChatRequest(load_prompt("micro/describe"), (first,)),
            ChatRequest(fill_prompt(load_prompt("micro/yes_no"), question="Is there a red star?"), (first,)),
            ChatRequest(compare, image_grid([first, second])),
            ChatRequest(compare, (first, second)),
            ChatRequest(fill_prompt(load_prompt("micro/reflect"), prompt=f"a photo of {i % 4 + 1} stars"), (first,)),
        ]
        requests.append(kinds[i % 5])
    return requests


def data_url(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def ask(client, model, request):
    """Text, token ids, and the number of tokens of the prompt."""
    content = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in request.images]
    content.append({"type": "text", "text": request.text})
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": content}],
        temperature=0,
        max_tokens=MAX_NEW_TOKENS,
        extra_body={"return_token_ids": True},
    )
    return answer.choices[0].message.content.strip(), answer.choices[0].token_ids, answer.usage.prompt_tokens


def largest_gap(vlm, request, token_ids):
    """By how much transformers prefers another next token to vLLM's at the worst place of its answer; 0 nowhere.

    vLLM's own tokens are what transformers is given up to there: random weights write bytes that are no text.
    """
    inputs = vlm._inputs([request])
    start = inputs["input_ids"].shape[1]
    ids = torch.cat([inputs["input_ids"], torch.tensor([token_ids], dtype=torch.long)], 1)
    kinds = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, len(token_ids)))
    inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": kinds}
    with torch.inference_mode():
        logits = vlm._model(**inputs).logits[0, start - 1 : -1]
    return float((logits.max(-1).values - logits.gather(1, ids[0, start:, None])[:, 0]).max())


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Of the whole model. It takes a minute to start: one for all tests, the last of which ends it."""
    server = server_of(model_folder(tmp_path_factory.mktemp("vlm")))
    yield server
    server.close()


def check_answers(folder, server):
    """vLLM's against those of transformers, which loads the folder."""
    vlm = InProcessVlm(micro_qwen(model=str(folder), max_new_tokens=MAX_NEW_TOKENS))
    requests = some_requests()
    expected = vlm.answer(requests)
    client = openai.OpenAI(base_url=server.ensure(), api_key="none", max_retries=0, timeout=120)
    found = [ask(client, server.config.model, request) for request in requests]
    assert [num_tokens for _, _, num_tokens in found] == [answer.num_prompt_tokens for answer in expected]
    gaps = [largest_gap(vlm, request, token_ids) for request, (_, token_ids, _) in zip(requests, found, strict=True)]
    equal = sum(mine.text == text for mine, (text, _, _) in zip(expected, found, strict=True))
    print(f"{equal} of {len(requests)} texts equal; largest gaps of logits: {sorted(gaps)[-5:]}")
    assert max(gaps) < NEAR_TIE
    assert equal >= 0.8 * NUM_REQUESTS


@pytest.mark.vllm
@pytest.mark.timeout(900)
def test_vllm_answers_as_transformers_does_with_an_adapter_merged(tmp_path, monkeypatch):
    """The reflector's, merged when it is loaded. It ends when it is let go of."""
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(Path("~/.cache/vllm").expanduser()))  # what it knows of classes of models
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = MICRO_WEIGHTS / "reflector"
    server = server_of(merged_folder(folder, "tested", "float32"))
    check_answers(folder, server)
    server.close()
    assert not server.is_running
    wait_until(lambda: not vllm_processes("vllm_guard"))


@pytest.mark.vllm
@pytest.mark.timeout(900)
def test_vllm_answers_as_transformers_does(server):
    """The whole model."""
    check_answers(server.config.model, server)


@pytest.mark.vllm
@pytest.mark.timeout(900)
def test_vllm_comes_back_when_it_or_its_engine_is_killed_and_leaves_nothing(server):
    address = server.ensure()
    code = (
        "import sys\nfrom pathlib import Path\nfrom tests.support.vllm_of_micro import server_of\n"
        f"server = server_of(Path({server.config.model!r}))\nprint(server.ensure(), flush=True)\nsys.stdin.read()"
    )
    command = [sys.executable, "-c", code]
    user = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert user.stdout.readline().strip() == address
    for name in (f"--port {urlsplit(address).port}", "EngineCore"):
        found = [pid for pid, line in vllm_processes("vllm_guard").items() if name in line]
        victims = [pid for pid in found if any("vllm_guard" in line for line in lines_above(pid))]
        assert victims, f"no process named {name}"
        os.kill(max(victims), signal.SIGKILL)
        # A server whose engine died says for a moment that it is well.
        wait_until(lambda address=address: server.ensure() != address, 480)
        address = server.ensure()
    server.close()
    time.sleep(1)
    assert vllm_processes("vllm_guard")  # the other process uses it
    user.kill()
    user.wait()
    wait_until(lambda: not server.is_running and not vllm_processes("vllm_guard"))
