"""The queue of texts to label: its order, and the next batch for a labeller. Makes no round and stores no label."""
