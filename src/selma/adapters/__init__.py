"""What is trained and merged: small changes of a frozen model, and their files."""
