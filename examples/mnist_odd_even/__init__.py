"""The tutorial of odd and even digits, with MNIST; installed, so that `fusion tutorial` runs anywhere."""
