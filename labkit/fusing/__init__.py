"""The study behind notebook 07: how deep depth is fused into colour, chosen or not, and under noise."""
