"""The page Try it: asks the gateway for a person, shows the nearest training texts, sends the right label. Keeps no token."""
