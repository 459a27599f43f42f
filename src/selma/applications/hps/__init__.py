"""HPS's benchmark of four styles, for a run's models or a folder of images."""
