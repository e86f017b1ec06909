"""What an editing dataset in OmniEdit's form consists of, whichever kind of file it is in."""

from dataclasses import dataclass
from typing import BinaryIO

from schemas.open_storage import open_storage

IMAGE_COLUMNS = ("src_img", "edited_img")
INSTRUCTIONS = "edited_prompt_list"
CAPTION = "caption"
SCORES = ("sc_score_1", "sc_score_2", "pq_score", "o_score")


@dataclass(frozen=True)
class EditFile:
    """One file: where it lies (the path, or a URI that names the hub's commit), as any worker finds it again."""

    place: str

    def open(self) -> BinaryIO:
        """To read parts of it. FileNotFoundError; StorageError where the store does not answer."""
        folder, slash, name = self.place.rpartition("/")
        return open_storage(folder or slash or ".").open(name)
