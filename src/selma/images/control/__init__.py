"""Stage 2 for control: pictures with their signals, and pictures drawn by them."""
