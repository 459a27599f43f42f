"""Stage 3: one adapter is trained for each skill. `training` has the one loop."""
