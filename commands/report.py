"""`python -m pipelines report`: write the page of pictures of a run, and its dataset card."""

from collections.abc import Sequence
from dataclasses import dataclass

from commands.arguments import parse
from commands.runs import RunDir, open_run, write_report
from schemas.terminal import say


@dataclass(frozen=True)
class ReportArgs:
    """Write report/index.html: pairs side by side, what was rejected and why, difficulty, cost."""

    run: RunDir
    card: bool = False
    """Also card/README.md: the dataset card for the hub, with statistics and figures (reads every shipped image)."""


def main(argv: Sequence[str]) -> int:
    """0 when written."""
    arguments = parse(ReportArgs, argv, "report")
    folder, config = open_run(arguments.run)
    write_report(folder, config)
    if arguments.card:
        from pipelines.report.dataset_card import write_card

        say(f"the dataset card: {write_card(folder, config)}")
    return 0
