"""`python -m pipelines COMMAND`: build datasets and look after their run folders. Commands are imported when called."""

import importlib
import sys
from collections.abc import Sequence

from schemas.errors import ReflectionFlowError

COMMANDS = {
    "run": "build a dataset in a run folder (or go on with it)",
    "search": "search for the best image of every prompt, and judge what was found",
    "distill": "teach a generator many concepts by a VLM's answers, each into a LoRA",
    "evaluate": "score a search, or any folder of images in GenEval's layout",
    "harvest": "make pairs for the next corrector out of a search's traces",
    "plan": "say what a run will make and cost, before it is started",
    "status": "what is done, what is left, what was rejected or put in quarantine",
    "resume": "go on with a run that was stopped or killed",
    "retry": "do the rows in quarantine again",
    "verify": "recount everything from blocks and shards",
    "inspect": "show one unit, prompt or shard",
    "report": "write the page of pictures, and the dataset card",
    "push": "upload shards and card to the hub",
    "gc": "remove blocks that nothing refers to",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done; 1 the work failed; 2 bad usage or input; 3 another configuration's or driver's folder;
    4 done, but rows are in quarantine."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: python -m pipelines COMMAND [--help]\n")
        for name, what in COMMANDS.items():
            print(f"  {name:<9} {what}")
        return 0 if arguments else 2
    command = arguments[0]
    if command not in COMMANDS:
        print(f"error: unknown command {command!r}\n  expected: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        return importlib.import_module(f"pipelines.commands.{command}").main(arguments[1:])
    except ReflectionFlowError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped at once; `python -m pipelines resume --run DIR` goes on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1


if __name__ == "__main__":
    sys.exit(main())
