"""`python -m inference COMMAND`: try one model on one prompt or image."""

import importlib
import sys
from collections.abc import Sequence

from schemas.errors import ReflectionFlowError

COMMANDS = {
    "generate": "draw images of one prompt",
    "check": "check images against a prompt: boxes, masks, colours, reasons",
    "score": "score images of a prompt with each reward, and with all together",
    "questions": "write a concept file for dual-process distillation from a prompt",
    "reflect": "search for the best image of one prompt, and tell how it came about",
    "drift": "say how far one folder of images lies from another (CMMD)",
    "judge": "judge images with the judge that no search uses",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 failed, 2 bad usage or input."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: python -m inference COMMAND [--help]\n")
        for name, what in COMMANDS.items():
            print(f"  {name:<9} {what}")
        return 0 if arguments else 2
    if arguments[0] not in COMMANDS:
        print(f"error: unknown command {arguments[0]!r}\n  expected: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        return importlib.import_module(f"inference.commands.{arguments[0]}").main(arguments[1:])
    except ReflectionFlowError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
