"""`python -m trainers COMMAND`: train one model. Heavy imports happen inside the command that needs them."""

import importlib
import sys
from collections.abc import Sequence

from schemas.errors import ReflectionFlowError

# Command -> (module with `main(argv) -> exit code`, what it does).
COMMANDS = {
    "corrector": ("trainers.commands.corrector", "a FLUX LoRA that draws again from a flawed image and a reflection"),
    "verifier": ("trainers.commands.verifier", "a Qwen2.5-VL that scores how well an image fits its prompt"),
    "reflector": ("trainers.commands.reflector", "a Qwen2.5-VL that says what is wrong with an image"),
    "dual-process": ("trainers.commands.dual_process", "a FLUX LoRA by a VLM's answers about its images"),
    "micro": ("trainers.micro.command", "the micro family, from the renderer alone"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 failed, 2 bad usage or input, 130 interrupted (the same command resumes)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: python -m trainers COMMAND [--help]\n")
        for name, (_, what) in COMMANDS.items():
            print(f"  {name:<13} train {what}")
        return 0 if arguments else 2
    if arguments[0] not in COMMANDS:
        print(f"error: unknown command {arguments[0]!r}\n  expected: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        return importlib.import_module(COMMANDS[arguments[0]][0]).main(arguments[1:])
    except ReflectionFlowError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
