"""How well a trained allocator answers, and at what cost, against methods that ignore the query."""
