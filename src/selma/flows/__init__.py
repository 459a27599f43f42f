"""What is done beside the six stages of `selma.pipeline`; each file reads from top to bottom."""
