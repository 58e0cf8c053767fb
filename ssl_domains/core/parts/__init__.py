"""Parts of the shared core."""
