"""The commands of `variant-adapter`: one module each, with `register(parser)` and `run(args)`."""
