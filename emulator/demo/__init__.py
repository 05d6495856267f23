"""`variant-adapter demo`: emulated vLLM servers, load, adapter and HPA on one machine."""

COMMAND = {
    "module": "emulator.demo.command",
    "summary": "Run emulated vLLM servers, load, adapter and HPA on this machine",
}
"""Entry point of the command line, which loads the module only when the command is called."""
