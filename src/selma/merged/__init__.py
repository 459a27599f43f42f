"""Stage 4: experts become one adapter. `combining` does it, `methods` says how."""
