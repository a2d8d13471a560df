"""What all pages for people share: layout, style, script, headers and plain routes. Knows no page."""
