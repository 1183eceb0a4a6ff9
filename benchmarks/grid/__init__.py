"""The paper's experiments: many runs side by side, and the report on them."""
