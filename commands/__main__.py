"""`python -m commands COMMAND`: what `reflectionflow` runs after `pip install .`."""

import sys

from commands.main import main

if __name__ == "__main__":
    sys.exit(main())
