"""Scores of answers, images and ratings that come from elsewhere, without a run."""
