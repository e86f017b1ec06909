"""What is made ahead by processes is what would have been made between steps, in the same order."""

import os

import numpy as np

from microworld.training.made_ahead import MadeAhead


def draw(number: int) -> tuple[int, np.ndarray, int]:
    return number, np.random.default_rng(number).random(3), os.getpid()


def test_processes_make_the_same_in_the_same_order():
    alone, many = MadeAhead(draw), MadeAhead(draw, workers=2)
    for expected in range(6):
        (number, values, _), (again, same, worker) = alone.next(), many.next()
        assert number == again == expected
        assert (values == same).all()
        assert worker != os.getpid()


def test_it_goes_on_from_any_number():
    assert [MadeAhead(draw, first=7).next()[0], MadeAhead(draw, workers=1, first=7).next()[0]] == [7, 7]
