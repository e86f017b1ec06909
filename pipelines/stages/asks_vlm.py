"""What the stages that ask a VLM share: how it is opened, and how its answers are kept."""

from typing import Any

from inference.interfaces import Vlm
from inference.vlm.vlm import VlmConfig
from pipelines.served_vlms import asked_vlms
from pipelines.stage import Stage


class AsksVlm(Stage):
    """Base of those stages; `config.vlm` says which."""

    @classmethod
    def is_client(cls, config: Any) -> bool:
        return all(vlm.is_elsewhere for vlm in asked_vlms(config))

    def load(self) -> None:
        self.vlm: Vlm = (self.config.vlm or VlmConfig()).open(self.journal)
