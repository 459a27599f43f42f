"""Makes every weight of toybox from nothing: `python -m selma.toybox.pretraining --help`."""
