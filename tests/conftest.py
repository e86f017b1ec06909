"""How tests share a machine: a thread each.

`make test` runs two at a time (pytest-xdist), and tests start processes of their own; models as small as theirs gain
nothing by a second thread, which waits for the first one most of the time and takes a core from a neighbour.
"""

import os
import sys

import hypothesis
import pytest

# A neighbour at work makes any example slow now and then; what may take how long, a test says itself.
hypothesis.settings.register_profile("beside others", deadline=None)
hypothesis.settings.load_profile("beside others")

# Before torch is imported, and for every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray gives its workers way to everything else: a test that waits for them beside another's would starve.
os.environ.setdefault("RAY_worker_niceness", "0")


@pytest.fixture(autouse=True)
def _as_many_threads_as_before():
    """A run in a test's own process sets torch's threads as it was configured; the next test has its own again."""
    yield
    if (torch := sys.modules.get("torch")) is not None and hasattr(torch, "set_num_threads"):
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
