"""What the verbs do. Imported when a verb runs, because it needs torch and transformers; help does not."""
