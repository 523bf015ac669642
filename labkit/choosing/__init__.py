"""The study behind notebook 06: gates that choose modalities, beside chance, and what that costs."""
