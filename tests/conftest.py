"""How tests share a machine: a thread each.

`make test` runs two at a time (pytest-xdist), and tests start processes of their own; models as small as theirs gain
nothing by a second thread, which waits for the first one most of the time and takes a core from a neighbour.
"""

import os
import sys

import hypothesis
import pytest

# A neighbour at work makes any example slow now and then; what may take how long, a test says itself. The examples are
# the same each time, so that what fails fails for everybody; others: `pytest --hypothesis-profile "new examples"`.
hypothesis.settings.register_profile("new examples", deadline=None)
hypothesis.settings.register_profile("beside others", deadline=None, derandomize=True)
hypothesis.settings.load_profile("beside others")

# Before torch is imported, and for every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray gives its workers way to everything else: a test that waits for them beside another's would starve.
os.environ.setdefault("RAY_worker_niceness", "0")
# As clusters have it that we start: Ray reads it once a process, when the first test starts one, in whatever way.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
# Nor is a cluster given up that takes long to start beside others.
os.environ.setdefault("RAY_raylet_start_wait_time_s", "150")
os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "150")


TORCH_SEED = 67280421310721
"""What torch begins with by itself."""


@pytest.fixture(autouse=True)
def _the_same_random_numbers():
    """A test draws the same whatever ran before it in its process, and whether torch was there by then."""
    if (torch := sys.modules.get("torch")) is not None and hasattr(torch, "manual_seed"):
        torch.manual_seed(TORCH_SEED)


@pytest.fixture(autouse=True)
def _as_many_threads_as_before():
    """A run in a test's own process sets torch's threads as it was configured; the next test has its own again."""
    yield
    if (torch := sys.modules.get("torch")) is not None and hasattr(torch, "set_num_threads"):
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
