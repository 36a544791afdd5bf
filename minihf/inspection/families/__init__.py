"""What the parity harness makes of each architecture: a tiny config, and the options that change the arithmetic.

A new architecture adds its ten lines.
"""

from minihf.inspection.families.decoders import DECODERS
from minihf.inspection.families.encoder_decoders import ENCODER_DECODERS
from minihf.inspection.families.encoders import ENCODERS
from minihf.inspection.families.family import Family, Variant

FAMILIES: dict[str, Family] = ENCODERS | DECODERS | ENCODER_DECODERS

__all__ = ["DECODERS", "ENCODERS", "ENCODER_DECODERS", "FAMILIES", "Family", "Variant"]
