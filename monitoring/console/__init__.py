"""The console: pages on the served model for people, rendered on the server. Labels
go to the gateway; apart from settled disputes and the log of the queue it changes no state."""
