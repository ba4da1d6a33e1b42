"""Search for edits of a photo that raise its score.

Only the server uses this package. It is part of the scorer because ``images`` holds only HTTP and process code.
"""
