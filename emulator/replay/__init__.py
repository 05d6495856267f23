"""`variant-adapter replay`: compare scaling policies by replaying traffic in virtual time."""

COMMAND = {
    "module": "emulator.replay.command",
    "summary": "Compare scaling policies on recorded or generated traffic",
}
"""Entry point of the command line, which loads the module only when the command is called."""
