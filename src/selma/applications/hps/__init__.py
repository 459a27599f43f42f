"""HPS's benchmark for a run's models, or for a folder of images."""
