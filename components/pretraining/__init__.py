"""Unlabelled photos become an encoder, by a convolutional autoencoder."""
