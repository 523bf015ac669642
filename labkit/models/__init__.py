"""Models. One file is one paper."""
