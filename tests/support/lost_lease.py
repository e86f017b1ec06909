"""What a driver tries that another took the lease from."""

import pytest

from pipelines.lease import Lease
from schemas.errors import LeaseHeldError
from schemas.storage import Storage

LATE_CALLS = ("commit", "replace", "delete", "copy")


def check_that_nothing_changes(storage: Storage, other: Storage, what: str) -> None:
    """Two drivers write; then the first, which lost the lease, tries one of `LATE_CALLS`. other: another folder."""
    other.commit("new", b"old view")
    with Lease(storage) as first:
        first.storage.commit("shard", b"first")
        with Lease(storage, take_over=True) as second:
            second.storage.commit("shard", b"second")
            calls = {
                "commit": lambda: first.storage.commit("new", b"old view"),
                "replace": lambda: first.storage.commit("shard", b"old view"),
                "delete": lambda: first.storage.delete("shard"),
                "copy": lambda: first.storage.copy_from(other, "new"),
            }
            with pytest.raises(LeaseHeldError, match="another driver took over"):
                calls[what]()
        assert storage.names("") == ["shard"]
        assert storage.read("shard") == b"second"
