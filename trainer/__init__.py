"""Fine-tune on accepted pairs streamed from the database, and score the result through the sandbox."""
