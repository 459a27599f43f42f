"""Judges, judged: what a judge says of images whose content needs no network to be known."""
