"""The graph of a net as a picture: laid out here, drawn as SVG, DOT or a page, with no system program."""
