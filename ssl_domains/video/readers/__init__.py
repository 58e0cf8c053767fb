"""Readers of videos: files, tables, arrays, Hugging Face datasets, generated clips."""
