"""Scores of answers, images and ratings that one has, without a run."""
