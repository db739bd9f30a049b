"""What a frozen part of a network computes of pictures, kept: each view of each computed once."""
