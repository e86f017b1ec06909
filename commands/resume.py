"""`python -m pipelines resume`: go on with a run that was stopped or killed."""

from collections.abc import Sequence

from commands.runs import open_run, parse_resume, shared_uri, work


def main(argv: Sequence[str]) -> int:
    """Exit codes as in `python -m pipelines`."""
    arguments = parse_resume(argv, "resume")
    folder, config = open_run(shared_uri(arguments.run, arguments.options.runtime))
    return work(folder, config, arguments.options, arguments.finish)
