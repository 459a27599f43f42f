"""Stage 5 for control: how well pictures keep to their signals."""
