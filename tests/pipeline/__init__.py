"""Whole runs, tiny but real: a server that writes, a pipeline that draws, training and merging."""
