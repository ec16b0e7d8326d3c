"""Labels of replies (task, correctness, format), read off entropies of layers and off ordinary signals."""
