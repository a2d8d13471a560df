"""Who may call: named tokens with scopes, hashed in a file, and the caller behind a request. Knows no route and no database."""
