"""Decoded pictures, kept: in memory, on the device, on disk; each decoded once."""
