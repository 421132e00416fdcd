"""The typer commands: the one place that prints, reads the environment and sets exit codes.

Owns: arguments, messages, progress on the terminal, exit codes.
Must not know: anything that another room could decide. Imports of heavy libraries happen inside
commands, so that `render-farm --help` answers at once.
"""
