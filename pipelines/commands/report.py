"""`python -m pipelines report`: write the page of pictures of a run."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.commands.arguments import RunDir, open_run, parse, write_report


@dataclass(frozen=True)
class ReportArgs:
    """Write report/index.html: pairs side by side, what was rejected and why, difficulty, cost."""

    run: RunDir


def main(argv: Sequence[str]) -> int:
    """0 when written."""
    arguments = parse(ReportArgs, argv, "report")
    write_report(*open_run(arguments.run))
    return 0
