"""Arrays in, frozen results out: what a model's answers are worth. Draws and prints nothing."""
