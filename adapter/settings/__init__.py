"""Settings of `serve`, each declared once: flag, ConfigMap key, environment variable, default, unit and text.

Flags are generated from the declarations (`adapter.commands.flags`), ConfigMaps are checked against them
(`adapter.resources.inputs`), and so is what the environment says (`adapter.app.config`). The page
docs/configuration.md is written from them (`page`).
"""
