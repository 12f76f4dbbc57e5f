"""Fine-tuning: the training step, and the methods that extend it."""
