"""The networks, written out a page a family, and what can be asked of them by name."""
