"""From the place that a user names to the storage that is there."""

from schemas.hub_storage import SCHEME as HUB
from schemas.hub_storage import HubStorage
from schemas.storage import LocalStorage, Storage


def open_storage(uri: str) -> Storage:
    """The storage a path or URI names: a local folder, an object store (s3://, gs://, abfs://), or, to read, a dataset
    of the hub (hf://). Nothing is created by opening. InputError for an unknown scheme."""
    if uri.startswith(HUB):
        return HubStorage(uri)
    scheme, separator, _ = uri.partition("://")
    if not separator:
        return LocalStorage(uri)
    if scheme == "file":
        return LocalStorage(uri.removeprefix("file://"))
    from schemas.object_storage import ObjectStorage  # obstore is not loaded to say what the flags are

    return ObjectStorage(uri)
