"""Data sets. One file is one data set: a procedural generator and a reader of the real release."""
