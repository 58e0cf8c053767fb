"""Skeletons and body-worn sensors: points on a body, each with some channels, over time."""
