"""Language models: those that write, and what they know of a text."""
