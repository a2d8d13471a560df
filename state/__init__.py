"""The state database: schema, migrations and connections. Knows no queries."""
