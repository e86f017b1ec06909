"""Where the micro family's weights lie: "micro/flux" is the folder `flux` of it."""

from pathlib import Path

MICRO_WEIGHTS = Path(__file__).parent / "weights"
