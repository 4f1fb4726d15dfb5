"""What the algorithms share: collection loop, buffers, policies, statistics over workers."""
