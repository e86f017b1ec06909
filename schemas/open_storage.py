"""From the place that a user names to the storage that is there."""

from schemas.hub_storage import SCHEME as HUB
from schemas.hub_storage import HubStorage
from schemas.places import checked_place
from schemas.storage import LocalStorage, Storage


def open_storage(uri: str) -> Storage:
    """The storage a path or URI names: a local folder (`~` is the home), an object store (s3://, gs://, abfs://), or,
    to read, a dataset of the hub (hf://). Nothing is created by opening. InputError for an unknown scheme, and for a
    URI that is misspelt, which would be a folder of that name."""
    uri = checked_place(uri)
    if uri.startswith(HUB):
        return HubStorage(uri)
    if "://" not in uri:
        return LocalStorage(uri)
    from schemas.object_storage import ObjectStorage  # obstore is not loaded to say what the flags are

    return ObjectStorage(uri)
