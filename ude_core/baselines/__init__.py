"""The methods that a learnt noise is compared with, each one file; read `base`, then `registry`."""
