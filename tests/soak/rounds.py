"""What is killed in which round, and when: all of it follows from the number of kills and one seed."""

import random
from dataclasses import dataclass

STAGES = ("draw_squares", "check_colors", "select_pairs")
VICTIMS = ("driver", *STAGES, "node")
KILLS_PER_ROUND = 3
NUM_PROMPTS = 48
NUM_BLOCKS = len(STAGES) * NUM_PROMPTS // 4
"""Units of a toy run have four prompts."""


@dataclass(frozen=True)
class Blow:
    """SIGKILL for the victim once so many blocks are committed, and so many seconds later."""

    victim: str
    after_blocks: int
    delay_s: float


@dataclass(frozen=True)
class Round:
    """One run and what befalls it. own_cluster: Ray is started, and dies, with the driver; else it outlives drivers."""

    number: int
    seed: int
    own_cluster: bool
    blows: tuple[Blow, ...]


def plan_rounds(num_kills: int, seed: int) -> list[Round]:
    """Rounds with so many kills in total. Every kind of victim comes equally often on the shared cluster; the last
    round has a cluster of its own, which has one node, and loses it with its driver."""
    rng = random.Random(seed)
    bag: list[str] = []
    rounds: list[Round] = []
    left = num_kills
    while left > 0:
        count = min(KILLS_PER_ROUND, left)
        left -= count
        own_cluster = left == 0
        victims = [rng.choice(("driver", *STAGES)) for _ in range(count)]
        if own_cluster:
            victims[0] = "driver"
        else:
            for position in range(count):
                bag = bag or rng.sample(VICTIMS, len(VICTIMS))
                victims[position] = bag.pop()
        # The last third of a run is left, so that there is work for whoever takes a victim's place.
        moments = sorted(rng.sample(range(1, NUM_BLOCKS * 2 // 3), count))
        blows = [Blow(v, blocks, round(rng.uniform(0, 0.5), 3)) for v, blocks in zip(victims, moments, strict=True)]
        rounds.append(Round(len(rounds) + 1, rng.randrange(1000), own_cluster, tuple(blows)))
    return rounds
