"""From a measurement file to the report: rows, words, charts, tables, and two sessions side by side."""
