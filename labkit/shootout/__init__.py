"""The study behind notebook 09: every method that can take it, over missing patterns, noise and cost."""
