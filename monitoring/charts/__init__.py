"""Charts as SVG, drawn on the server: values in, markup out. Knows no source of values and no page."""
