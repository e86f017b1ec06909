"""Rewards: one number for an image and its prompt, and how several are combined."""
