"""What is frozen: the models that write, draw and judge. Nothing heavy is imported here."""
