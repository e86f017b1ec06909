"""FLUX: the generator, what conditions it, and the corrector."""
