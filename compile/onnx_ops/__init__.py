"""What ONNX's operators are in the compiler's graph: one reader per operator, a file per theme."""
