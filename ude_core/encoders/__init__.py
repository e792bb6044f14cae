"""Frozen foundation models behind one protocol: `base`, then `timm_encoder` and `phantom_vit`."""
