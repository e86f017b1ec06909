"""Where a model computes when nobody says."""


def device_of(device: str) -> str:
    """The device itself; of an empty one cuda, where there is one, and else cpu."""
    import torch

    return device or ("cuda" if torch.cuda.is_available() else "cpu")
