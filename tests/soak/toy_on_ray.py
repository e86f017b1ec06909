"""One driver of a toy run on Ray, to be killed: `python -m tests.soak.toy_on_ray RUN SEED NUM_PROMPTS [DRAWERS]`.

Joins RAY_ADDRESS, or starts a cluster of its own. Exit codes as in `python -m pipelines`.
"""

import sys
from collections.abc import Sequence

from pipelines.driver import RunOptions, drive
from pipelines.run_folder import RunFolder
from pipelines.stage import Workers
from schemas.errors import ReflectionFlowError
from tests.support.toy_job import DrawConfig, ToyConfig, create, open_run


def main(argv: Sequence[str]) -> int:
    """Start the run, or go on with it."""
    uri, seed, num_prompts = argv[0], int(argv[1]), int(argv[2])
    drawers = Workers(count=int(argv[3]) if len(argv) > 3 else 1)
    try:
        if not RunFolder.exists(uri):
            create(uri, ToyConfig(num_prompts=num_prompts, seed=seed, draw=DrawConfig(workers=drawers)))
        folder, config = open_run(uri)
        return 0 if drive(folder, config, RunOptions(runtime="ray", quiet=True)) else 1
    except ReflectionFlowError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
