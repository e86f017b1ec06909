"""Images of a real HTTP server that misbehaves as servers do, asked through the real `openai` client."""

import base64
import logging
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from inference.images_api import dialect
from inference.images_api.corrector import ImagesApiCorrectorConfig
from inference.images_api.generator import ImagesApiGeneratorConfig
from inference.vlm.journal import StorageJournal
from pipelines.runtime.failures import classify
from schemas.errors import AccessError, InputError, OutageError, RequestFailedError, TransientError
from schemas.image_size import ImageSize
from schemas.storage import LocalStorage
from tests.support.image_server import MODEL, MODES, OPENAI_SIZES, ImageServer, error, image_server, plain_painter

KEY = "sk-proj-0123456789abcdefghijklmnop"


@pytest.fixture(autouse=True)
def nothing_learnt(monkeypatch):
    monkeypatch.setattr(dialect, "_left_out", {})


class DictJournal(dict):
    def get(self, key) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().get(key)

    def put(self, key, value):
        self[key] = value


def config_of(server, **changes):
    said = {"model": MODEL, "size_px": 16, "timeout_s": 60.0, "retries": 1, "concurrency": 4}
    return ImagesApiGeneratorConfig(server.base_url, **said | changes)


def draw(server, number=3, journal=None, prompt="a star {}", **changes):
    prompts = [prompt.format(i) for i in range(number)]
    return config_of(server, **changes).open(journal).generate(prompts, range(number))


def serving(mode=None, **changes):
    return image_server(ImageServer(mode=MODES[mode] if mode else None, **changes))


def drawn_alike(images, number=3):
    expected = [plain_painter(f"a star {i}", i, ImageSize(16, 16), None) for i in range(number)]
    return len(images) == number and all(np.array_equal(*pair) for pair in zip(images, expected, strict=True))


def test_a_request_says_prompt_size_seed_and_the_settings_that_are_set():
    with serving() as server:
        images = draw(server, 1)
        draw(server, 1, num_steps=8, guidance=2.5, true_cfg_scale=4.0, extra_body='{"quality": "high"}')
    plain, full = (one.payload for one in server.asked)
    assert drawn_alike(images, 1)
    assert plain == {
        "prompt": "a star 0",
        "model": MODEL,
        "n": 1,
        "size": "16x16",
        "response_format": "b64_json",
        "seed": 0,
    }
    # Qwen-Image leaves true guidance out where there is no negative prompt.
    settings = {"num_inference_steps": 8, "guidance_scale": 2.5, "true_cfg_scale": 4.0, "negative_prompt": " "}
    assert full == plain | settings | {"quality": "high"}


def test_images_come_in_order_and_the_limit_of_requests_at_once_holds_for_all_who_ask():
    with serving("slow") as server:
        generator = config_of(server, concurrency=3).open()
        images = list(generator.draw([f"a star {i}" for i in range(9)], range(9)))
    assert drawn_alike(images, 9)
    assert 2 <= server.most_at_once <= 3


def test_each_image_may_have_a_size_of_its_own():
    sizes = [ImageSize(24, 16), ImageSize(16, 40)]
    with serving() as server:
        images = config_of(server).open().generate(["a", "b"], [0, 1], sizes)
    assert [image.shape for image in images] == [(16, 24, 3), (40, 16, 3)]
    assert [one.payload["size"] for one in sorted(server.asked, key=lambda one: one.payload["prompt"])] == [
        "24x16",
        "16x40",
    ]


@pytest.mark.parametrize(
    "mode",
    [
        *("429 at first", "500 at first", "half an answer at first", "half an image at first"),
        *("its own url", "a relative url", "a data url"),
    ],
)
def test_what_passes_and_what_says_it_otherwise_gives_the_images(mode):
    with serving(mode) as server:
        assert drawn_alike(draw(server))


@pytest.mark.parametrize("mode", ["jpeg", "webp"])
def test_other_formats_are_taken(mode):
    with serving(mode) as server:
        (image,) = draw(server, 1)
    assert image.shape == (16, 16, 3)
    assert image.dtype == np.uint8


@pytest.mark.parametrize("mode", ["half an image", "a page", "no image", "text"])
def test_what_is_no_image_is_asked_for_again_and_then_blamed_on_the_request(mode):
    with serving(mode) as server:
        with pytest.raises(RequestFailedError, match="no image"):
            draw(server, 1)
        assert len(server.asked) == 3


@pytest.mark.parametrize("mode", ["a url elsewhere", "a url of a file"])
def test_an_address_of_another_host_is_not_followed(mode):
    with serving(mode) as server, pytest.raises(AccessError, match="another address"):
        draw(server, 1)


def test_another_size_than_was_asked_for_stops_at_once_and_both_are_named():
    journal = DictJournal()
    with serving("another size") as server, pytest.raises(AccessError, match=r"draws 8x16 where 16x16") as told:
        draw(server, 40, journal)
    assert "size-px" in str(told.value)
    assert not journal
    assert len(server.asked) < 20


def test_a_size_that_the_server_does_not_draw_is_said_with_those_that_it_does():
    with serving("openai", sizes=OPENAI_SIZES) as server, pytest.raises(AccessError, match="1024x1536") as told:
        draw(server, 1)
    assert "does not draw 16x16" in str(told.value)


@pytest.mark.parametrize(
    ("said", "param", "stops"),
    [
        ("height and width have to be divisible by 16 but are 24 and 16", None, True),
        ("guidance_scale: Input should be less than or equal to 20", None, True),
        ("Invalid value: 'ultra'.", "quality", True),
        ("the prompt is too long: its maximum size is 4000 characters", None, False),
        ("the quality of this text is too low", None, False),
        ("string too long", "prompt", False),
    ],
)
def test_a_complaint_about_what_all_requests_have_stops_and_one_about_a_prompt_does_not(said, param, stops):
    complaining = ImageServer(mode=lambda server, asked: error(said, param=param))
    expected = AccessError if stops else RequestFailedError
    with image_server(complaining) as server, pytest.raises(expected) as told:
        draw(server, 1, guidance=30.0, extra_body='{"quality": "ultra"}')
    assert said in str(told.value)


def test_what_a_server_does_not_know_is_left_out_and_said_once(caplog):
    with serving("openai") as server:
        draw(server, 4, concurrency=1, num_steps=8, guidance=2.0)
        assert [sorted(one.payload) for one in server.asked[-3:]] == [["model", "n", "prompt", "size"]] * 3
    assert len(server.asked) == 4 + 4  # four names, learnt by the first of four images
    said = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(said) == 1
    assert "guidance_scale, num_inference_steps, response_format, seed" in said[0]


def test_a_refused_prompt_is_that_prompt_s_matter_alone():
    journal = DictJournal()
    with serving("moderated") as server:
        generator = config_of(server).open(journal)
        with pytest.raises(RequestFailedError, match="safety system") as told:
            generator.generate(["a star 0", "a forbidden thing", "a star 2"], [0, 1, 2])
        asked = len(server.asked)
        assert len(generator.generate(["a star 0", "a star 2"], [0, 2])) == 2
        assert asked == len(server.asked) == 3
    assert classify(told.value) == "permanent"


def test_a_wrong_key_is_said_before_anything_is_drawn(monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-proj-wrong-wrong-wrong-wrong")
    with serving(key=KEY) as server:
        with pytest.raises(AccessError, match="MY_KEY") as told:
            draw(server, 1, api_key_env="MY_KEY")
        assert not server.asked
        monkeypatch.setenv("MY_KEY", KEY)
        assert drawn_alike(draw(server, api_key_env="MY_KEY"))
    assert "wrong-wrong" not in str(told.value)


def test_a_dead_address_is_said_before_anything_is_drawn(monkeypatch):
    monkeypatch.setattr("inference.images_api.client._BETWEEN_LOOKS_S", 0.0)
    with serving() as server:
        pass
    with pytest.raises(OutageError, match=r"(?s)nobody answers at .*generator.images-api.base-url"):
        draw(server, 1)


def test_an_account_without_credit_stops_at_once():
    with serving("no credit") as server:
        with pytest.raises(AccessError, match="credit"):
            draw(server, 40)
        assert len(server.asked) < 20


def test_a_wrong_model_names_those_that_there_are():
    with serving() as server, pytest.raises(AccessError, match=f"one of its models: {MODEL}"):
        draw(server, 1, model="nonesuch")


def test_a_failure_of_one_request_is_told_from_an_outage_by_whether_the_server_lives():
    with serving("500") as server, pytest.raises(RequestFailedError, match="lives"):
        draw(server, 1, retries=0)
    with serving() as server:
        generator = config_of(server, retries=0).open()
    with pytest.raises(TransientError) as told:
        generator.generate(["a star"], [0])
    assert classify(told.value) == "transient"


def test_what_is_journalled_is_never_drawn_again_and_is_the_file_that_came(tmp_path):
    journal = StorageJournal(LocalStorage(tmp_path))
    with serving("jpeg") as server:
        images = draw(server, 3, journal)
        again = draw(server, 3, journal, api_key_env="ANOTHER_KEY", concurrency=1)
        assert len(server.drawn) == 3
        assert all(np.array_equal(*pair) for pair in zip(images, again, strict=True))
        files = sorted(tmp_path.rglob("*.json"))
        assert len(files) == 3
        files[0].write_text(files[0].read_text()[:-40])
        repaired = draw(server, 3, journal)
        assert len(server.drawn) == 4
        assert all(np.array_equal(*pair) for pair in zip(images, repaired, strict=True))


def test_requests_that_differ_in_anything_that_counts_are_different_ones():
    journal = DictJournal()
    image = np.zeros((16, 16, 3), np.uint8)
    with serving() as server:
        draw(server, 1, journal)
        draw(server, 1, journal, num_steps=4)
        draw(server, 1, journal, extra_body='{"quality": "high"}')
        config_of(server).open(journal).generate(["a star 0", "a star 0"], [2**31, 2**31])
        editor = ImagesApiCorrectorConfig(server.base_url, MODEL).open(cast(Any, None), journal)
        editor.correct([image, image, image + 1], ["p"] * 3, ["a star 0"] * 3, [0, 0, 0])
    assert len(journal) == len(server.drawn) == 6  # seed 2**31 is sent as 0, and is another image all the same


def test_an_editor_is_told_the_reflection_and_shown_the_image():
    images = [plain_painter("a", i, ImageSize(24, 16), None) for i in range(2)]
    with serving() as server:
        config = ImagesApiCorrectorConfig(server.base_url, MODEL, num_steps=8)
        found = config.open(cast(Any, None)).correct(images, ["a star", "a ring"], [" Add a star. ", ""], [3, 4])
        told = replace(config, template="edit_with_prompt").open(cast(Any, None))
        told.correct(images[:1], ["a star"], ["Add a star."], [3])
    assert all(np.array_equal(255 - a, b) for a, b in zip(images, found, strict=True))
    asked = {one.payload["prompt"]: one for one in server.asked}
    assert {"Add a star.", "a ring"} < asked.keys()
    first = asked["Add a star."]
    assert (first.route, first.payload["size"], first.payload["seed"], first.payload["num_inference_steps"]) == (
        "edits",
        "24x16",
        "3",
        "8",
    )
    assert first.image is not None
    assert np.array_equal(first.image, images[0])
    (longer,) = asked.keys() - {"Add a star.", "a ring"}
    assert "a star\n" in longer
    assert longer.endswith("Add a star.")


def test_an_editor_without_an_address_is_the_generator_s_server():
    with serving() as server, serving() as other:
        generator = config_of(server).open()
        image = np.zeros((16, 16, 3), np.uint8)
        ImagesApiCorrectorConfig().open(generator).correct([image], ["p"], ["Add a star."], [0])
        ImagesApiCorrectorConfig(other.base_url).open(generator).correct([image], ["p"], ["Add a star."], [0])
    assert [one.route for one in server.asked] == [one.route for one in other.asked] == ["edits"]
    with pytest.raises(InputError, match="which server corrects"):
        ImagesApiCorrectorConfig().reached(None)


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"num_steps": -1}, "num_steps"),
        ({"concurrency": 0}, "concurrency"),
        ({"size_px": 0}, "size_px"),
        ({"guidance": float("nan")}, "guidance"),
        ({"base_url": "http://me:secret@host/v1"}, "password"),
        ({"extra_body": '{"n": 4}'}, "extra_body sets n"),
        ({"extra_body": '{"api_key": "sk-1"}'}, "secret"),
        ({"api_key_env": "sk-proj-1234"}, "no variable"),
        ({"headers": ("api-key",)}, "NAME=VARIABLE"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name_and_no_secret_is_shown(said, problem):
    with pytest.raises(InputError, match=problem) as told:
        ImagesApiGeneratorConfig(**said)
    assert "generator.images-api" in str(told.value)
    assert "sk-proj" not in str(told.value)


@pytest.mark.parametrize(
    ("said", "flag"),
    [
        ({}, "base-url"),
        ({"base_url": "http://draws.invalid/v1", "model": "m"}, "base-url"),
        ({"base_url": "host:8000", "model": "m"}, "base-url"),
        ({"base_url": "http://host:8000/v1"}, "model"),
    ],
)
def test_a_server_that_nobody_named_is_asked_for_by_its_flag(said, flag):
    with pytest.raises(InputError, match=f"--generator.images-api.{flag}"):
        ImagesApiGeneratorConfig(**said).open()


def test_the_key_is_in_no_error_journal_or_log(tmp_path, monkeypatch, caplog):
    """A server that repeats the key wherever it can, with every library's log on."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    told = []
    for status in (400, 403, 422, 429, 500):
        server = ImageServer(mode=lambda server, asked, status=status: error(f"Bearer {KEY}", status), key=KEY)
        with image_server(server), pytest.raises(Exception, match="hidden") as failed:
            draw(server, 1, StorageJournal(LocalStorage(tmp_path)), retries=0)
        logging.getLogger("anybody").error("failed", exc_info=failed.value)
        told += [str(failed.value), repr(failed.value), str(failed.value.__cause__)]
    told += [caplog.text, *(path.read_text() for path in tmp_path.rglob("*.json"))]
    assert not [text for text in told if KEY in text or base64.b64encode(KEY.encode()).decode() in text]
