"""The mathematics, on tensors: patches, their Gram matrix, and the two closed forms. No FX here."""
