"""The shared core: batches, masks, objectives, methods and schedules. It imports no domain."""
