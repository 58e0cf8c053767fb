"""Encoders of volumes: MONAI's networks, and 2-D ones over stacks of slices."""
