"""What a training step costs, beside Adam's."""
