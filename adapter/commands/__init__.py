"""The commands of `variant-adapter`: one module each, with `register(subparsers)` and `run(args)`."""
