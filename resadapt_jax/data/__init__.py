"""From files of questions about media, and from the embedded world, to batches."""
