"""Export a run's training pairs as tar shards, for programs that read many files as streams."""
