"""What is frozen: the models that write, generate and judge. Nothing heavy is imported here."""
