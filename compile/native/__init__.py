"""Our own CPU code generator: graph, layout and memory plan, one schedule per layer, C++ from a few templates."""
