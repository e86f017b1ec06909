"""`python -m pipelines retry`: do the units with rows in quarantine again, from the stage that failed on."""

from collections.abc import Sequence
from dataclasses import replace

from commands.runs import open_run, parse_resume, shared_uri, work
from pipelines.lease import Lease
from pipelines.quarantine import clear_quarantine
from pipelines.run_folder import RunFolder


def main(argv: Sequence[str]) -> int:
    """Exit codes as in `python -m pipelines`; 0 when nothing is in quarantine."""
    arguments = parse_resume(argv, "retry")
    folder, config = open_run(shared_uri(arguments.run, arguments.options.runtime))
    with Lease(folder.storage, take_over=arguments.options.take_over) as lease:
        units = clear_quarantine(RunFolder.open(lease.storage), config)
    print(f"{len(units)} units to do again" if units else "nothing is in quarantine")
    return work(folder, config, replace(arguments.options, take_over=False), arguments.finish)
