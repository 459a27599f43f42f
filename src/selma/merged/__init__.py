"""Stage 4: experts become one adapter. `merging` does it; `methods` is the table of how."""
