"""`variant-adapter replay`: traffic replayed in virtual time, scaling policies side by side."""

COMMAND = {
    "module": "emulator.replay.command",
    "summary": "compare scaling policies on recorded or generated traffic",
}
"""What the command line is told of the command before anything of it is loaded."""
