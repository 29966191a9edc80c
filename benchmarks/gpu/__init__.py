"""What has to be seen on a GPU: `make benchmark-gpu`."""
