"""What several ops share: the runtime (threads, arena, output memory), register tiles, conversions, elementwise."""
