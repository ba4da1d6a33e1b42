"""Measurements of the evaluation: one module for each question, with the gates that judge its answer."""
