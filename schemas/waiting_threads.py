"""How a model's threads wait for each other on a CPU: briefly, then they make way."""

import os

SPIN_COUNT = "1000"


def make_way() -> None:
    """To be called before torch is imported. What the user has set stays.

    OpenMP's threads spin where they wait. With a thread a core and another process on one of them, each barrier then
    waits for the scheduler: the micro FLUX drew 16 images in 12.9 s beside two busy processes on two cores, in .35 s
    with this; alone in .15 s either way.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
