"""Judges, judged: what a judge says of images whose content needs no network to be known."""

SCENES = 60
"""Drawn scenes that a judge is asked about, unless told otherwise."""
