"""Encoders of skeletons and body-worn sensors."""
