"""Everything that touches the outside: API server, collection, loop and command line."""
