"""micro-gpu: the micro corrector's training on one GPU, with batches that keep it busy."""
