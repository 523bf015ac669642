"""The study behind notebook 08: what it takes to make a product of two modalities."""
