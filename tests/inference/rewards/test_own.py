"""A reward of one's own: the documented example, and what is said of one that does not do."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from inference.interfaces import check_scores
from inference.rewards.own import OwnRewardConfig
from inference.rewards.reward import RewardConfig
from schemas.errors import InputError, UnscoredError

DOCS = Path(__file__).parents[3] / "docs" / "models.md"
IMAGES = [np.full((4, 4, 3), color, np.uint8) for color in ((200, 0, 0), (0, 200, 0))]
PROMPTS = ["a", "b"]


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module that can be imported while the test runs."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)

    return write


def test_the_documented_example_scores_as_it_says(module):
    (example,) = re.findall(r"```python\n(import numpy.*?)```", DOCS.read_text(), re.S)
    module("redness", example)
    reward = RewardConfig(kind="own", own=OwnRewardConfig("redness:make")).open()
    found = reward.score(IMAGES, PROMPTS)
    assert found.dtype == np.float32
    assert found.tolist() == [200.0, -100.0]


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("", "names no callable"),
        ("my_rewards", "names no callable"),
        ("not_here:make", "no module 'not_here' here"),
        ("lacking:make", "it imports something_else"),
        ("broken:make", "does not import: ZeroDivisionError"),
        ("my_rewards:nothing", "has no callable 'nothing'"),
        ("my_rewards:NUMBER", "has no callable 'NUMBER'"),
        ("my_rewards:no_reward", "returned a dict without score"),
    ],
)
def test_a_factory_that_does_not_do_is_told(module, factory, said):
    module("my_rewards", "NUMBER = 3\ndef no_reward():\n    return {}\n")
    module("lacking", "import something_else\n")
    module("broken", "1 / 0\n")
    with pytest.raises(InputError, match=said):
        OwnRewardConfig(factory).open()


@pytest.mark.parametrize(
    ("scores", "said"),
    [("[1.0]", r"the shape \(1,\)"), ("[[1.0], [2.0]]", r"shape \(2, 1\)"), ("None", "shape"), ("['x', 'y']", "list")],
)
def test_scores_of_another_shape_are_told(module, scores, said):
    module("shapes", f"class R:\n    def score(self, images, prompts):\n        return {scores}\n")
    with pytest.raises(InputError, match=f"'shapes:R'.*{said}"):
        OwnRewardConfig("shapes:R").open().score(IMAGES, PROMPTS)


def test_tensors_are_taken_and_no_numbers_are_a_matter_of_their_row(module):
    module(
        "tensors",
        "import torch\nclass R:\n    def score(self, images, prompts):\n"
        "        return torch.tensor([1.0, float('nan')], requires_grad=True)\n",
    )
    found = OwnRewardConfig("tensors:R").open().score(IMAGES, PROMPTS)
    assert found[0] == 1.0
    with pytest.raises(UnscoredError, match="image 2 of 2"):
        check_scores(found, PROMPTS, "mine")
