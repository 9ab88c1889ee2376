"""From bytes to batches: sources, shards, streams, transforms, pseudo-labels."""
