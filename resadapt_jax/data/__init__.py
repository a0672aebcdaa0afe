"""From videos and the embedded world to batches."""
