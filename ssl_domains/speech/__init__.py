"""Speech and other sound: recordings of any length, as waveforms or features over time."""
