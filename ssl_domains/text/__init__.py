"""Text: captions, names, transcripts."""
