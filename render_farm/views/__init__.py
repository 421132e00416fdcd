"""Looking at a run: status, verify, contact sheet. Reads committed results only.

Owns: what people see of a run, as plain data.
Must not know: Ray, the terminal, and how to change a run.
"""
