"""Jobs that ship with the project: prompts, and what is needed to judge their renders."""
