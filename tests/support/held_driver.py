"""`python -m tests.support.held_driver NUMBER ...`: `python -m pipelines ...` on Ray, whose driver stands still once so
many units have come back from a stage, so that whoever is to kill it at work is never late."""

import sys

from commands.main import main
from pipelines.runtime.ray import _Flow
from tests.support.held_processes import hold_calls

if __name__ == "__main__":
    hold_calls(_Flow, "_finish", int(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
