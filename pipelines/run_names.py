"""How the files of a run are called. Names of any other form are not the run's (what a file manager, a network file
system or an editor left there) and are passed over wherever a folder is listed."""

import re

FOLDER_UNITS = 1000
_STAGE = re.compile(r"[a-z][a-z0-9_]*")
_KEY = re.compile(r"[0-9a-f]{16}")
_FOLDER = re.compile(r"[0-9]{3,9}")
_BLOCK = re.compile(r"([0-9]{6,12})\.parquet")
_ENTRY = re.compile(r"([0-9]{6,12})-([0-9]{3,9})\.json")
_STATS = re.compile(r"[\w.-]+-[0-9]+-[0-9a-f]+-[0-9]{4,9}\.json", re.ASCII)
_CARD = re.compile(r"README\.md|statistics\.json|[a-z_]+\.svg")


def is_stage(name: str) -> bool:
    """The name of a stage, as folders below `stages/`, `quarantine/` and `journal/` have it."""
    return _STAGE.fullmatch(name) is not None


def is_key(name: str) -> bool:
    """A key, as folders below `stages/<stage>/` have it."""
    return _KEY.fullmatch(name) is not None


def is_number(name: str) -> bool:
    """A folder of blocks, as folders below `stages/<stage>/<key>/` have it."""
    return _FOLDER.fullmatch(name) is not None


def block_path(stage: str, key: str, unit: int) -> str:
    """Where the block of a unit lies."""
    return f"stages/{stage}/{key}/{unit // FOLDER_UNITS:03d}/{unit:06d}.parquet"


def unit_of(folder: str, name: str) -> int | None:
    """The unit whose block has this name in this folder; None for what is no block's."""
    match = _BLOCK.fullmatch(name)
    if match is None:
        return None
    unit = int(match[1])
    return unit if (f"{unit // FOLDER_UNITS:03d}", f"{unit:06d}.parquet") == (folder, name) else None


def quarantine_path(stage: str, unit: int, row: int) -> str:
    """Where the entry of a quarantined row lies. stage: what a block says; of another form it leads nowhere."""
    return f"quarantine/{stage if is_stage(stage) else 'unknown'}/{unit:06d}-{row:03d}.json"


def row_of(name: str) -> tuple[int, int] | None:
    """Unit and row of a quarantine entry of this name; None for what is none."""
    match = _ENTRY.fullmatch(name)
    if match is None:
        return None
    unit, row = int(match[1]), int(match[2])
    return (unit, row) if f"{unit:06d}-{row:03d}.json" == name else None


def is_statistics(name: str) -> bool:
    """A file below `stats/`."""
    return _STATS.fullmatch(name) is not None


def is_card(name: str) -> bool:
    """A file below `card/`."""
    return _CARD.fullmatch(name) is not None
