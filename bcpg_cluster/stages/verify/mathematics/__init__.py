"""Reading and comparing mathematical answers: boxes, notation, units, numbers; math-verify for the rest."""
