"""What several families share: layers as stages, and the image autoencoder's networks as programs."""
