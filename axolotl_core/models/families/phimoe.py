"""Phi 3.5 MoE: its router (sparsemixer) takes experts up to a distance from the best one."""

ROUTING_JUMPS = True
