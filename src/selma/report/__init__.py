"""Stage 6: what was found, as one page and as a table."""
