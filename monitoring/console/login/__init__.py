"""Who uses the console: sessions, forms that only its own pages can send, and the page Log in. Knows no label."""
