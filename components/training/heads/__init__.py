"""Heads fitted on frozen features, in closed form or by quasi-Newton optimisation."""
