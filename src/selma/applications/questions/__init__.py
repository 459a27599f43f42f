"""Questions about new prompts by a language model: DSG's yes/no or TIFA's multiple choice."""
