"""The console: pages on the served model for people, rendered on the server. Changes no state; a page may ask the gateway."""
