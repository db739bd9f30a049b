"""Where pictures come from: whatever a user names, turned into samples."""
