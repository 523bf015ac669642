"""The study behind notebook 05: what fills in a missing modality best, and what it fills in."""
