"""Methods of the shared core."""
