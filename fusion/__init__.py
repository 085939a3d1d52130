"""Several trained nets into one: build, compose, merge, train under positive-congruent losses, measure."""
