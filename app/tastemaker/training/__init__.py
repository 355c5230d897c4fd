"""From the labels of one moment to a published version that was honestly judged."""
