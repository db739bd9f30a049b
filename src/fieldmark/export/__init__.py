"""Models in the form that other libraries open."""
