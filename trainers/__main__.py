"""`python -m trainers COMMAND`: the door to `commands/`, and the one line of this package that knows of them."""

import sys

from commands.main import main

if __name__ == "__main__":
    sys.exit(main(package="trainers"))
