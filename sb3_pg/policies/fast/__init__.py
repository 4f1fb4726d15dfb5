"""SB3's own policies on the CPU, without the objects around their layers."""
