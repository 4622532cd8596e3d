"""Decoding, labelled sets, splits and phantoms; knows nothing of models."""
