"""Dual-process distillation: what a generator is taught by a VLM's answers, and what the taught one needs."""
