"""Changes to a labelled solution that keep the truth of its steps, or change it in a known way: what judges are stressed with."""
