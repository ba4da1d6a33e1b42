"""The search for edits of a photo that raise its score.

The server alone uses it. It stands here because ``images`` holds what speaks HTTP and starts processes, no more.
"""
