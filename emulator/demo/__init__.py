"""`variant-adapter demo`: emulated vLLM servers, load, adapter and HPA on one machine."""

COMMAND = {
    "module": "emulator.demo.command",
    "summary": "run emulated vLLM servers, load, adapter and HPA on this machine",
}
"""What the command line is told of the command before anything of it is loaded."""
