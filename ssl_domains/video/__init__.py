"""Video: clips of frames."""
