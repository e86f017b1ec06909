"""Production's classes at tiny sizes with random weights, as folders that flags can name.

`python -m tests.support.tiny_models KIND FOLDER` makes one; without arguments it lists the kinds.
"""

from tests.support.tiny_models.flux_preset import (
    flux_transformer,
    save_tiny_bert,
    save_tiny_flux,
    save_tiny_grounding_dino,
    save_tiny_sam,
)

__all__ = ["flux_transformer", "save_tiny_bert", "save_tiny_flux", "save_tiny_grounding_dino", "save_tiny_sam"]
