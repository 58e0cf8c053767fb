"""Objectives: losses on plain tensors."""
