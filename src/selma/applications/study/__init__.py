"""People choose between two models' images, as in SELMA's human evaluation (section 5.5)."""
