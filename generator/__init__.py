"""Seeds, concepts, instructions, responses, executions, selection: every row in a SQL database."""
