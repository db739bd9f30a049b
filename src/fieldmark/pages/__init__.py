"""Results as pages that a browser opens, whole in one file."""
