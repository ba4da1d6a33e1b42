"""Step that pretrains an encoder on photos without labels, as a convolutional autoencoder."""
