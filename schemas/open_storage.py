"""From the place that a user names to the storage that is there."""

from schemas.object_storage import ObjectStorage
from schemas.storage import LocalStorage, Storage


def open_storage(uri: str) -> Storage:
    """The storage a path or URI names: a local folder, or an object store (s3://, gs://, abfs://).
    Nothing is created by opening. InputError for an unknown scheme."""
    scheme, separator, _ = uri.partition("://")
    if not separator:
        return LocalStorage(uri)
    if scheme == "file":
        return LocalStorage(uri.removeprefix("file://"))
    return ObjectStorage(uri)
