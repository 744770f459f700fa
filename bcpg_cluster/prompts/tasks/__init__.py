"""Ready-made data sets: where they are, how they are asked, how answers are checked, how they are measured."""
