"""What stages hand to each other: small frozen records with ids, written as JSON lines."""
