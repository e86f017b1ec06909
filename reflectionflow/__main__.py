"""`python -m reflectionflow COMMAND`: what the command `reflectionflow` runs."""

import sys

from reflectionflow.commands.main import main  # pyright: ignore[reportMissingImports] - see this package

if __name__ == "__main__":
    sys.exit(main())
