"""Guided positives for a training loop of one's own: plain PyTorch, lightly, whatever takes a Dataset, without solo-learn."""
