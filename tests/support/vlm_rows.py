"""Rows with images, and a VLM whose answers a test writes, for the stages that ask one."""

import numpy as np

from inference.interfaces import ChatAnswer
from schemas.images import encode_png, sha256
from schemas.records import Candidate, Pair, PromptRecord, PromptRow


def image(value):
    return np.full((8, 8, 3), value, np.uint8)


def candidate(index, value=0, text="a red star", rewards=()):
    png = encode_png(image(value))
    return Candidate(index, index, text, 1, 8, 8, sha256(png), png, rewards=rewards)


def paired_row(number=0, subset="general", num_pairs=1, text="a red star", reflection=None):
    """Good images are white, bad ones black; another grey for each pair."""
    candidates, pairs = [], []
    for i in range(num_pairs):
        candidates += [candidate(2 * i, 255 - i), candidate(2 * i + 1, i)]
        pairs.append(Pair(i, 2 * i, 2 * i + 1, "test", reflection))
    prompt = PromptRecord(f"{subset}-{number:06d}", text, subset)
    return PromptRow(prompt, tuple(candidates), tuple(pairs))


class ScriptedVlm:
    """`answer(request)` gives a text, or a list with one text an attempt."""

    def __init__(self, say):
        self.say, self.requests = say, []

    def answer(self, requests):
        self.requests += requests
        return [ChatAnswer(self._text(request), True, 10, 5) for request in requests]

    def _text(self, request):
        said = self.say(request)
        return said if isinstance(said, str) else said[min(request.attempt, len(said) - 1)]

    def first_word_probabilities(self, requests, words):
        self.requests += requests
        return np.array([self.say(request) for request in requests], np.float32)
