"""From a text to a version's output: response cache, batch queue, copies to a challenger. Knows no HTTP and no metrics."""
