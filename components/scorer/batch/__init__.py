"""Scoring of many photos at once, on this machine or through Apache Beam."""
