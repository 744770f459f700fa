"""Final-answer verifiers: text, numbers and mathematics, behind one protocol."""
