"""A run's models behind OpenAI's images protocol, and a page that draws them side by side."""
