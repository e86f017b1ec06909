import base64
import threading

import numpy as np
import pytest

from inference.vlm import pictures
from inference.vlm.pictures import EncodedOnce, data_url, digest
from schemas.images import decode_image


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def decoded(url):
    kind, _, data = url.partition(";base64,")
    return kind, decode_image(base64.b64decode(data))


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (32, 33), (129, 64)])
def test_a_png_holds_exactly_the_image(size):
    for image in (noise(*size), np.full((*size, 3), 200, np.uint8), noise(*size)[::-1, ::-1]):
        kind, found = decoded(data_url(image, "png"))
        assert kind == "data:image/png"
        assert np.array_equal(found, image)


@pytest.mark.parametrize("image_format", ["jpeg", "webp"])
def test_lossy_formats_are_near_and_much_smaller(image_format):
    ramp = np.linspace(0, 255, 128)
    image = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], ramp[::-1, None]), -1)
    image = (image + np.random.default_rng(0).normal(0, 3, image.shape)).clip(0, 255).astype(np.uint8)
    url = data_url(image, image_format)
    kind, found = decoded(url)
    assert kind == f"data:image/{image_format}"
    assert np.abs(found.astype(int) - image).mean() < 4
    assert len(url) < len(data_url(image, "png")) / 3


def test_a_name_tells_pixels_and_shape_apart_and_nothing_else():
    image = noise(4, 6)
    same = np.asfortranarray(image)
    assert digest(image) == digest(same)
    assert len({digest(image), digest(image.reshape(6, 4, 3)), digest(image[::-1])}) == 3


def test_each_image_is_encoded_once_and_forgotten_after_its_last_use(monkeypatch):
    calls = []
    real = pictures.data_url
    monkeypatch.setattr(pictures, "data_url", lambda *a: calls.append(1) or real(*a))
    images = EncodedOnce(["a"] * 8 + ["b"], "png", 0)
    urls = []

    def use(name, seed):
        urls.append(images.url(name, noise(64, 64, seed)))
        images.done(name)

    threads = [threading.Thread(target=use, args=("a", 0)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len(set(urls)) == 1
    assert not images._slots
    use("b", 1)
    assert len(calls) == 2
