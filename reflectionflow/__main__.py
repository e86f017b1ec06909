"""`python -m reflectionflow COMMAND`: what the command `reflectionflow` runs."""

import sys

from reflectionflow.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
