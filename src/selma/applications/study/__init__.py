"""People choose between two models' pictures, as in SELMA's human evaluation (section 5.5)."""
