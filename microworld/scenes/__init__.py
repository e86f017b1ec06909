"""The micro world (scenes, captions) and the tiny models trained on it, whose weights ship in `weights/`."""
