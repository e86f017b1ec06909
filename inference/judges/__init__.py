"""Judges: what says whether a delivered image is right. Used by evaluations alone, never inside a search."""
