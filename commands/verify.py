"""`python -m pipelines verify`: recount a run from blocks and shards, never from counters."""

from collections.abc import Sequence
from dataclasses import dataclass

from commands.arguments import parse
from commands.runs import RunDir, open_run, print_json, print_summary
from pipelines.conservation import tally, verify_beside, verify_made
from schemas.errors import VerificationError
from schemas.terminal import say


@dataclass(frozen=True)
class VerifyArgs:
    """Check that every prompt, candidate and pair is accounted for, and that shards hold what the blocks say."""

    run: RunDir
    deep: bool = False
    """Also decode every image and hash every shard member."""
    json: bool = False
    """Print one JSON object."""


def main(argv: Sequence[str]) -> int:
    """0 when everything adds up, 1 with a line for each thing that does not."""
    arguments = parse(VerifyArgs, argv, "verify")
    folder, config = open_run(arguments.run)
    made, beside = verify_made(folder, config, deep=arguments.deep), verify_beside(folder, config)
    problems = made + beside
    counts = tally(folder, config)
    if arguments.json:
        print_json({"run": arguments.run, "problems": problems, "deep": arguments.deep, **counts.as_json()})
        return 1 if problems else 0
    print_summary(folder, counts)
    if problems:
        shown = "\n".join(f"  {problem}" for problem in problems[:20])
        more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        resume = f"python -m pipelines resume --run {arguments.run} --check-blocks"
        mends = f"\n  `{resume}` makes what is missing or broken again"
        said = f"{arguments.run}: {len(problems)} things do not add up:\n{shown}{more}{mends if made else ''}"
        raise VerificationError(said)
    say("everything adds up" + (", every image decodes, every member has its hash" if arguments.deep else ""))
    return 0
