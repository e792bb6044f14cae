"""Frozen foundation models behind one protocol: `base`, then `timm_encoder`, `medical_mae`, `phantom_vit`."""
