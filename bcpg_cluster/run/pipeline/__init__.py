"""What of a round runs beside what: the reference pass beside the data half, an evaluation beside the next round's training."""
