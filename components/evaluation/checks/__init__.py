"""What evaluation measures: one module a question, each with the gates that judge its answer."""
