"""TokenBridge Lab: the model, from images to scores."""
