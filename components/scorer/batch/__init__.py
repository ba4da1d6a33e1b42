"""Batch scoring of many photos, on this machine or through Apache Beam."""
