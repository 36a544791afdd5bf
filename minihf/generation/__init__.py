"""From next-token logits to text: what to ask for (config), how to choose (processors), when to stop, and the loop."""
