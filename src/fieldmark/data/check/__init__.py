"""What is wrong or odd in a set of pictures, found before it costs a training."""
