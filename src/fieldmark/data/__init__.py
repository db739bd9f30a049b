"""From a source a user names to pictures a network can take."""
