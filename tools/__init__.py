"""The command-line programs, one thin module each."""
