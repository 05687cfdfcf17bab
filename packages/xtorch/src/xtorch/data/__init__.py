"""Reading, checking, splitting, loading and caching data.

Only `loader`, `loading` and `features` import torch.
"""
