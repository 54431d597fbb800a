"""Fine-tuning: modes, few-shot runs, one's own data, adapters, and the search for prompts."""
